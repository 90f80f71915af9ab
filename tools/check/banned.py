#!/usr/bin/env python3
"""Checks that the library uses nothing that could end, reconfigure or talk past its host.

Usage: banned.py [root]. Looks at lib/ and backends/ with comments and strings taken out. Names that
are natural for a method (fork, bind, connect) are left to library.py, which sees the real imports.
"""
import pathlib
import re
import sys

import source

CALL = r"(?<![\w.>])(?:std::|::)?(?:%s)\s*\("
BANNED = [
    (CALL % "abort|exit|_exit|_Exit|quick_exit|terminate", "ends the host: return a Status"),
    (CALL % "atexit|at_quick_exit|signal|sigaction|set_terminate", "process-wide state"),
    (CALL % "assert", "ends the host in one build and does nothing in the other: return a Status"),
    (r"\b(?:ABSL_)?(?:D|Q)?CHECK(?:_\w+)?\s*\(|\b(?:ABSL_)?LOG\s*\(|\bABSL_(?:RAW_LOG|DIE_IF_NULL|ASSERT|HARDENING_ASSERT)\b",
     "ends the host or prints: return a Status, or write to the LogSink"),
    (CALL % "getenv|secure_getenv|setenv|putenv|unsetenv", "the library reads no environment: make it an option"),
    (CALL % "printf|fprintf|vprintf|vfprintf|puts|fputs|putchar|fputc|putc|perror|dprintf",
     "the library never prints: write to the LogSink"),
    (r"\bstd::(?:cout|cerr|clog|cin|wcout|wcerr)\b", "the library never prints: write to the LogSink"),
    (r"#\s*include\s*<(?:iostream|cassert|assert\.h|clocale|locale\.h)>", "header of banned things"),
    (CALL % "setlocale|strtod|strtof|strtold|atof|stof|stod|stold|scanf|sscanf|localtime|gmtime|strtok|rand|srand",
     "depends on process-wide state (locale, hidden buffers): use absl:: or std::from_chars"),
    (CALL % "popen|vfork|execv|execve|execvp|posix_spawn", "starts a process"),
    (CALL % "socket|getaddrinfo|gethostbyname|sendto|recvfrom", "nothing leaves the machine"),
    (r"\bthrow\b(?!\s*\(\s*\))(?!\s+std::bad_alloc\b)(?!\s*;)", "only std::bad_alloc may be thrown: return a Status"),
    (r"\busing\s+namespace\b", "write the name out, or a using-declaration"),
    (r"\b(?:strcpy|strcat|sprintf|vsprintf|gets|alloca)\s*\(", "unbounded: use a sized container"),
]
COMMENT_RULES = [
    (r"\b(?:TODO|FIXME|XXX|HACK)\b(?!\(#\d+\))", "name the issue, TODO(#12), or do it"),
]


def check(root):
    bad = []
    patterns = [(re.compile(p), why) for p, why in BANNED]
    notes = [(re.compile(p), why) for p, why in COMMENT_RULES]
    paths = source.files(root, ["lib", "backends"])
    for path in paths:
        text = (root / path).read_text(errors="replace")
        code = source.code_of(text)
        for rules, body in ((patterns, code), (notes, text)):
            for pattern, why in rules:
                for match in pattern.finditer(body):
                    number = body.count("\n", 0, match.start()) + 1
                    bad.append(f"{path}:{number}: {match[0].strip()} -- {why}")
    return source.report("banned", sorted(bad), f"{len(paths)} files")


if __name__ == "__main__":
    sys.exit(check(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))

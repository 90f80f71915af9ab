#!/usr/bin/env python3
"""Checks that every internal header compiles alone. Usage: headers.py root build_dir [jobs]

A header that its own source file includes before anything else is shown to by the build. The others
are compiled here, with flags from compile_commands.json: those of the source file of the same name,
else those of any source file of the folder, else those of any C++ file. A file without #pragma once
is a fragment for one place, not a header: it is passed over if its opening comment says where it is
"Included".
"""
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import source


def flags_of(entry):
    """The compiler and its flags, without input, output and dependency files."""
    words, kept, skip = shlex.split(entry["command"]), [], False
    while words and not words[0].startswith("-") and pathlib.Path(words[0]).name == "ccache":
        words.pop(0)
    for word in words:
        if skip:
            skip = False
        elif word in ("-o", "-MF", "-MT", "-MQ"):
            skip = True
        elif word not in ("-c", "-MD", "-MMD") and word != entry["file"]:
            kept.append(word)
    return kept


def check(root, build, jobs):
    commands = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = pathlib.Path(entry["file"])
        if path.is_relative_to(root) and path.suffix == ".cc":
            commands[path.relative_to(root)] = entry
    if not commands:
        return source.report("headers", ["compile_commands.json names no C++ file of this tree"], "")

    headers = source.files(root, ["lib", "backends"], {".h"})
    if not any(c.parts[:2] == ("backends", "onednn") for c in commands):
        headers = [h for h in headers if h.parts[:2] != ("backends", "onednn")]
    headers = [h for h in headers if h.parts[:2] != ("backends", "cuda")]

    def is_fragment(header):
        text = (root / header).read_text()
        return "#pragma once" not in text and "Included" in "".join(text.splitlines(True)[:4])

    def is_first_of_its_source(header):
        own = header.with_suffix(".cc")
        if own not in commands:
            return False
        first = re.search(r'^\s*#\s*include\s*["<]([^">]+)', (root / own).read_text(), re.M)
        return first is not None and first[1] == header.as_posix()

    headers = [h for h in headers if not is_fragment(h)]
    alone = [h for h in headers if not is_first_of_its_source(h)]

    def compile_alone(header):
        entry = commands.get(header.with_suffix(".cc")) or next(
            (e for c, e in sorted(commands.items()) if c.parent == header.parent), None) or next(
            iter(commands.values()))
        # Included, not compiled itself: a header as the main file gets other warnings.
        run = subprocess.run(
            flags_of(entry) + ["-fsyntax-only", "-x", "c++", "-"], cwd=entry["directory"],
            input=f'#include "{header.as_posix()}"\n#include "{header.as_posix()}"\n',
            capture_output=True, text=True, check=False)
        return f"{header}: does not compile alone\n{run.stderr.strip()}" if run.returncode else None

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        bad = [b for b in pool.map(compile_alone, alone) if b]
    return source.report("headers", bad, f"{len(headers)} headers compile alone, {len(alone)} tried here")


if __name__ == "__main__":
    sys.exit(check(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve(),
                   int(sys.argv[3]) if len(sys.argv) > 3 else max(1, (os.cpu_count() or 2) // 2)))

#!/usr/bin/env python3
"""Checks the built shared library: what it needs, exports, imports, and how large it is.

Usage: library.py libponder.so [--max-mb N] [--nm nm] [--readelf readelf] [--strip strip]
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import source

# libpthread and libdl are inside libc since glibc 2.34; older ones keep them apart.
NEEDED = re.compile(r"(libc\.so\.6|libm\.so\.6|ld-linux[\w.-]*|libpthread\.so\.0|libdl\.so\.2)$")
NETWORK = {
    "socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "send", "sendto", "sendmsg",
    "sendmmsg", "recv", "recvfrom", "recvmsg", "recvmmsg", "getaddrinfo", "gethostbyname", "gethostbyname_r",
    "gethostbyaddr", "getnameinfo", "res_query", "__res_query", "inet_addr", "shutdown", "setsockopt",
}
PROCESS = {"system", "popen", "fork", "vfork", "execv", "execve", "execvp", "execl", "posix_spawn", "posix_spawnp"}
EXIT = {"exit", "_exit", "quick_exit", "atexit"}
PRINT = {"printf", "puts", "putchar", "perror", "vprintf", "__printf_chk", "__vprintf_chk"}
ENVIRONMENT = {"getenv", "secure_getenv", "__secure_getenv", "setenv", "putenv"}


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def check(args):
    bad = []
    dynamic = output(args.readelf, "--wide", "--dynamic", args.library)
    needed = re.findall(r"\(NEEDED\).*\[(.*?)\]", dynamic)
    soname = re.findall(r"\(SONAME\).*\[(.*?)\]", dynamic)
    if soname != ["libponder.so.0"]:
        bad.append(f"SONAME is {soname}, not libponder.so.0")
    bad += [f"needs {name}: only libc, libm and the loader are allowed" for name in needed if not NEEDED.match(name)]
    for flag in ("BIND_NOW", "SYMBOLIC"):
        if flag not in dynamic:
            bad.append(f"not linked with {flag}")
    if "TEXTREL" in dynamic:
        bad.append("has text relocations: something inside is not position independent")

    exported = [line.split()[-1] for line in output(args.nm, "-D", "--defined-only", args.library).splitlines()]
    functions = [name.split("@")[0] for name in exported if not name.startswith("PONDER_")]
    bad += [f"exports {name}, which is not ponder_*" for name in functions if not name.startswith("ponder_")]
    if not functions:
        bad.append("exports nothing")
    bad += [f"exports {name} without a version" for name in exported
            if name.startswith("ponder_") and "@" not in name]

    imported = {line.split()[-1].split("@")[0]
                for line in output(args.nm, "-D", "--undefined-only", args.library).splitlines()}
    for names, why in ((NETWORK, "could reach the network"), (PROCESS, "could start a process"),
                       (EXIT, "could end the host"), (PRINT, "could print"), (ENVIRONMENT, "reads the environment")):
        bad += [f"imports {name}: it {why}" for name in sorted(imported & names)]

    with tempfile.TemporaryDirectory() as folder:
        stripped = pathlib.Path(folder, "stripped.so")
        subprocess.run([args.strip, "-o", str(stripped), args.library], check=True)
        size = os.path.getsize(stripped) / 1e6
    if args.max_mb and size > args.max_mb:
        bad.append(f"is {size:.1f} MB stripped, the limit is {args.max_mb:g} MB")
    return source.report("library", [f"{args.library}: {b}" for b in bad],
                         f"{len(functions)} functions, {size:.1f} MB stripped, needs {' '.join(needed)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("--max-mb", type=float, default=0)
    for tool in ("nm", "readelf", "strip"):
        parser.add_argument("--" + tool, default=tool)
    sys.exit(check(parser.parse_args()))

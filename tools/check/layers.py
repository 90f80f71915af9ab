#!/usr/bin/env python3
"""Checks that every #include obeys tools/check/layers.txt. Usage: layers.py [root]"""
import pathlib
import re
import sys

import source

INCLUDE = re.compile(r'\s*#\s*include\s*(["<])([^">]+)')


def read_rules(path):
    folders, packages = {}, []
    for line in path.read_text().splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0] == "package":
            packages.append((re.compile(words[1]), words[2:]))
        else:
            folders[words[0]] = [w for w in words[1:] if w != "-"]
    return folders, packages


def below(path, folder):
    return path == folder or path.startswith(folder + "/")


def check(root):
    folders, packages = read_rules(root / "tools/check/layers.txt")

    def owner(path):
        return max((f for f in folders if below(path, f)), key=len, default=None)

    bad, count = [], 0
    tops = sorted({f.split("/")[0] for f in folders} | {"lib", "backends"})
    for file in source.files(root, tops):
        here = file.as_posix()
        mine = owner(here)
        if mine is None:
            bad.append(f"{here}: no line of layers.txt covers this folder")
            continue
        count += 1
        for number, line in enumerate((root / file).read_text(errors="replace").splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quoted, target = match[1] == '"', match[2]
            where = f"{here}:{number}"
            path = "include/" + target if target.startswith("ponder/") else target
            theirs = owner(path)
            if theirs is not None:
                if theirs != mine and not any(below(theirs, a) for a in folders[mine]):
                    bad.append(f"{where}: {mine} may not include {theirs} ({target})")
                continue
            package = next((homes for p, homes in packages if p.match(target)), None)
            if package is not None:
                if not any(below(here, home) for home in package):
                    bad.append(f"{where}: {target} belongs only in {', '.join(package)}")
            elif quoted and (below(here, "lib") or below(here, "backends") or
                             not (root / file.parent / target).is_file()):
                bad.append(f'{where}: "{target}" is not a path from the root of the tree')
    return source.report("layers", bad, f"{count} files")


if __name__ == "__main__":
    sys.exit(check(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))

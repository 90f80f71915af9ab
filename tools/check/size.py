#!/usr/bin/env python3
"""Checks tools/check/size.txt, the line budgets. Usage: size.py [root]"""
import pathlib
import sys

import source


def check(root):
    bad, told = [], []
    for line in (root / "tools/check/size.txt").read_text().splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        budget, path = int(words[0]), words[1]
        if not (root / path).exists():
            bad.append(f"{path}: has a budget in tools/check/size.txt, but does not exist")
            continue
        lines = len((root / path).read_text().splitlines())
        told.append(f"{path} {lines}/{budget}")
        if lines > budget:
            bad.append(f"{path}: {lines} lines, the budget is {budget}: make it simpler, or change the table")
    return source.report("size", bad, ", ".join(told))


if __name__ == "__main__":
    sys.exit(check(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))

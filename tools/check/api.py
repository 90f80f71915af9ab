#!/usr/bin/env python3
"""Checks the public header against the house rules of a C ABI. Usage: api.py include/ponder/ponder.h"""
import pathlib
import re
import sys

import source

THREAD_CLASSES = {"ANY", "HANDLE", "SIGNAL"}
DECLARATION = re.compile(r"PONDER_API\((\w+)\)\s*([^;{]+);")
LOOSE_TYPE = re.compile(r"\b(bool|int|long|short|unsigned|enum|_Bool|wchar_t|FILE|time_t|off_t|ssize_t)\b")


def check(path):
    text = path.read_text()
    code = source.code_of(text)
    bad, names = [], []
    # Structs that cross by pointer and grow: all but ponder_str, which is frozen.
    structs = set(re.findall(r"typedef struct (ponder_\w+)\s*\{", code)) - {"ponder_str"}
    enums = re.findall(r"\b(PONDER_[A-Z0-9_]+)\s*=", code)

    for thread_class, decl in DECLARATION.findall(code):
        decl = " ".join(decl.split())
        match = re.search(r"(\w+)\s*\(", decl)
        if not match:
            bad.append(f"{decl}: not a function")
            continue
        name = match[1]
        names.append(name)
        args = decl[match.end():decl.rindex(")")]
        if thread_class not in THREAD_CLASSES:
            bad.append(f"{name}: unknown thread class {thread_class}")
        if not re.fullmatch(r"ponder_[a-z0-9]+(_[a-z0-9]+)*", name):
            bad.append(f"{name}: not ponder_noun_verb")
        if "..." in args:
            bad.append(f"{name}: takes varargs")
        if args.strip() == "":
            bad.append(f"{name}: () is not a prototype in C; write (void)")
        if LOOSE_TYPE.search(decl):
            bad.append(f"{name}: {LOOSE_TYPE.search(decl)[1]} is not a type of fixed width")
        if "ponder_error **" in args and not args.rstrip().endswith("ponder_error **err"):
            bad.append(f"{name}: ponder_error **err must come last")
        for arg in re.split(r",(?![^()]*\))", args):
            by_value = re.fullmatch(r"\s*(?:const\s+)?(ponder_\w+)\s+\w+\s*", arg)
            if by_value and by_value[1] in structs:
                bad.append(f"{name}: passes a struct by value: {arg.strip()}")
        for struct, arg, rest in re.findall(r"\b(ponder_\w+) \*(\w+)(,?[^,]*)", args):
            if struct in structs and f"size_t {arg}_size" not in rest:
                bad.append(f"{name}: {struct} *{arg} needs size_t {arg}_size right after it")

    # Each declaration is exported through the macro: nothing slips in without a thread class.
    prototypes = set(re.findall(r"^[\w *]*?\b(ponder_\w+)\s*\((?!\*)[^;{]*\)\s*;", re.sub(
        r"PONDER_API\(\w+\)[^;]*;|typedef[^;]*;", "", code), re.M))
    bad += [f"{name}: declared without PONDER_API(class)" for name in sorted(prototypes)]
    for value in {e for e in enums if enums.count(e) > 1}:
        bad.append(f"{value}: defined twice")
    for name in {n for n in names if names.count(n) > 1}:
        bad.append(f"{name}: declared twice")
    if re.search(r"\b(bool|_Bool|union)\b|:\s*\d+\s*;", code):
        bad.append("bool, union or a bit-field in the header")
    if not names:
        bad.append(f"{path}: no declaration found")
    nouns = {n.split("_")[1] for n in names}
    return source.report("api", bad, f"{len(names)} functions, {len(nouns)} nouns, {len(structs)} growing structs")


if __name__ == "__main__":
    sys.exit(check(pathlib.Path(sys.argv[1])))

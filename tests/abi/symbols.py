#!/usr/bin/env python3
"""Holds the four lists of the ABI's functions against each other.

Usage: symbols.py SOURCE_DIR LIBRARY [NM]

The table tests/abi/symbols.txt, the declarations of include/ponder/ponder.h, the version script
lib/capi/ponder.map and the dynamic symbols of the library must name the same functions, each in the
version node of the release that brought it.
"""
import pathlib
import re
import subprocess
import sys


def table(path):
    """name -> (introduced, deprecated, removed)"""
    rows = {}
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, *versions = line.split()
        if len(versions) != 3:
            raise SystemExit(f"{path}: {name}: expected introduced, deprecated and removed")
        if name in rows:
            raise SystemExit(f"{path}: {name} stands twice")
        rows[name] = tuple(versions)
    return rows


def declared(path):
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
    return [re.search(r"(\w+)\s*\(", d)[1] for d in re.findall(r"PONDER_API\(\w+\)\s*([^;{]+);", text)]


def mapped(path):
    """name -> version node, and the nodes in order"""
    text = re.sub(r"#[^\n]*", "", path.read_text())
    names, nodes, bad = {}, [], []
    for node, body, parent in re.findall(r"(PONDER_[\d.]+)\s*\{(.*?)\}\s*(PONDER_[\d.]+)?\s*;", text, re.S):
        if parent != (nodes[-1] if nodes else ""):
            bad.append(f"{path.name}: {node} inherits {parent or 'nothing'}, not the node before it")
        nodes.append(node)
        exported = re.search(r"global:(.*?)(local:|$)", body, re.S)
        for name in re.findall(r"([^\s;]+)\s*;", exported[1] if exported else ""):
            if "*" in name:
                bad.append(f"{path.name}: {name}: a pattern exports what nobody promised")
            names[name] = node
    if not re.search(r"local:\s*\*\s*;", text):
        bad.append(f"{path.name}: no `local: *;`, so everything would be exported")
    return names, bad


def exported(library, nm):
    """name -> version node"""
    out = subprocess.run([nm, "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    names = {}
    for line in out.splitlines():
        kind, symbol = line.split()[-2:]
        name, _, node = symbol.partition("@@")
        if kind == "A":  # the version node itself
            continue
        names[name] = node
    return names


def main(source, library, nm="nm"):
    source = pathlib.Path(source)
    rows = table(source / "tests/abi/symbols.txt")
    alive = {name for name, (_, _, removed) in rows.items() if removed == "-"}
    in_header = declared(source / "include/ponder/ponder.h")
    in_map, bad = mapped(source / "lib/capi/ponder.map")
    in_library = exported(library, nm)

    def compare(what, names, reference, of):
        bad.extend(f"{name}: {what}, but not in {of}" for name in sorted(set(names) - set(reference)))

    compare("in ponder.h", in_header, alive, "symbols.txt: add its row")
    compare("in symbols.txt", alive, in_header, "ponder.h: a name never leaves before it is removed")
    compare("in ponder.map", in_map, rows, "symbols.txt")
    compare("in symbols.txt", rows, in_map, "ponder.map")
    compare("exported", in_library, rows, "symbols.txt")
    compare("in symbols.txt", rows, in_library, "the library: it is not exported")
    for name, (introduced, _, _) in sorted(rows.items()):
        for where, node in (("ponder.map", in_map.get(name)), ("the library", in_library.get(name))):
            if node is not None and node != f"PONDER_{introduced}":
                bad.append(f"{name}: introduced in {introduced}, but {where} has it in {node or 'no node'}")
    print("\n".join(bad) or f"symbols: ok, {len(alive)} functions in header, table, map and library")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

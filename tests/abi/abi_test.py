#!/usr/bin/env python3
"""Checks of the C header that need a compiler. Usage: abi_test.py CHECK SOURCE_DIR [LIBRARY]

  headers     each public header compiles alone under every standard and compiler that is here
  references  a program that names every function links to the library alone, and runs
  old         a program compiled with smaller structs (an older ponder.h) runs with the library
  abidiff     the ABI that ponder.h describes is the one recorded in tests/abi/ponder.abi
  record      writes that file anew: only before a release, after reading what abidiff says

Exit status 77: a tool this check needs is not installed (the line printed says which).
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

STRICT = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
# All that Clang knows, but for what a header cannot help: padding, reserved names of guards' peers,
# and being old C to new C and the other way round.
EVERYTHING = ["-Weverything", "-Werror", "-Wno-padded", "-Wno-unused-macros", "-Wno-c++98-compat",
              "-Wno-c++98-compat-pedantic", "-Wno-c++11-long-long", "-Wno-long-long",
              "-Wno-documentation", "-Wno-documentation-unknown-command", "-Wno-unknown-warning-option",
              "-Wno-pre-c2x-compat", "-Wno-unsafe-buffer-usage"]
C_STANDARDS = ["c90", "c99", "c11", "c17", "c2x"]
CXX_STANDARDS = ["c++11", "c++14", "c++17", "c++20"]


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def run(command, **more):
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def compiler(*names):
    for name in (os.environ.get("CC"), *names):
        if name and shutil.which(name):
            return name
    skip("no C compiler (gcc or clang) in the path")


def functions(header):
    """(thread class, result type, name, arguments) of each declaration"""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.S)
    found = []
    for thread_class, decl in re.findall(r"PONDER_API\((\w+)\)\s*([^;{]+);", text):
        decl = " ".join(decl.split())
        match = re.match(r"(.*?)(\w+)\s*\((.*)\)$", decl)
        found.append((thread_class, match[1].strip(), match[2], match[3]))
    return found


def check_headers(source, _):
    folder = source / "include/ponder"
    jobs = []
    for name, standards, language, headers in (
            ("gcc", C_STANDARDS, "c", "*.h"), ("clang", C_STANDARDS, "c", "*.h"),
            ("g++", CXX_STANDARDS, "c++", "*.h*"), ("clang++", CXX_STANDARDS, "c++", "*.h*")):
        if not shutil.which(name):
            print(f"{name} is not installed, so not tried")
            continue
        for header in sorted(folder.glob(headers)):
            for standard in standards:
                flags = [STRICT]
                if "clang" in name and header.suffix == ".h":
                    flags.append(EVERYTHING)
                if header.suffix == ".hpp":
                    flags.append(STRICT + ["-fno-exceptions", "-fno-rtti"])
                jobs += [(name, language, standard, header, f) for f in flags]
    if not jobs:
        skip("no compiler in the path")
    bad = 0
    for name, language, standard, header, flags in jobs:
        # Included twice, before anything else: guards work and nothing is missing.
        text = f"#include <ponder/{header.name}>\n#include <ponder/{header.name}>\nextern int used;\nint used = 0;\n"
        done = run([name, "-x", language, f"-std={standard}", "-I", str(source / "include"), *flags,
                    "-fsyntax-only", "-"], input=text)
        if done.returncode:
            bad += 1
            print(f"{header.name} does not compile with {name} -std={standard} {' '.join(flags)}\n{done.stderr}")
    print(f"headers: {len(jobs) - bad} of {len(jobs)} compilations pass")
    return bad != 0


def link(cc, source, code, folder, library, name, *flags):
    """The path of the program, linked to the library and nothing else of ours."""
    path = folder / f"{name}.c"
    path.write_text(code)
    program = folder / name
    done = run([cc, *flags, "-I", str(source), "-o", str(program), str(path), str(library),
                f"-Wl,-rpath,{library.parent}"])
    if done.returncode:
        print(done.stderr)
        return None
    return program


def check_references(source, library):
    names = [f[2] for f in functions(source / "include/ponder/ponder.h")]
    listed = ",\n    ".join(f"(any)&{name}" for name in names)
    code = ("#include <ponder/ponder.h>\n"
            "typedef void (*any)(void);\n"
            f"static any all[] = {{\n    {listed}}};\n"
            "int main(void) {\n"
            "  size_t i;\n"
            "  for (i = 0; i < sizeof all / sizeof *all; ++i)\n"
            "    if (all[i] == 0) return 1;\n"
            "  return 0;\n}\n")
    with tempfile.TemporaryDirectory() as folder:
        program = link(compiler("gcc", "clang"), source, code, pathlib.Path(folder), library, "references",
                       "-std=c99", "-I", str(source / "include"), *STRICT, "-Wno-cast-function-type")
        if program is None or run([str(program)]).returncode:
            print("references: the program does not link or not run")
            return 1
    print(f"references: ok, {len(names)} functions")
    return 0


# The last fields of each struct that comes out of the library: what an older release did not have.
LATER_FIELDS = {
    "ponder_device_info": ["int32_t kind;", "uint32_t index;"],
    "ponder_model_info": ["uint32_t top_k;", "float temperature, top_p, min_p, repeat_penalty;"],
    "ponder_event": ["uint32_t prompt_tokens, cached_tokens, done_tokens, thought_tokens, answer_tokens;"],
    "ponder_stats": ["uint32_t running, waiting;", "float prefill_tokens_per_s, decode_tokens_per_s;"],
}


def check_old(source, library):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        shutil.copytree(source / "include", folder / "include")
        header = folder / "include/ponder/ponder.h"
        text = header.read_text()
        for struct, fields in LATER_FIELDS.items():
            start = text.index(f"typedef struct {struct} {{")
            end = text.index(f"}} {struct};", start)
            body = text[start:end]
            for field in fields:
                if field not in body:
                    print(f"old: {struct} has no line `{field}` any more; name its last fields in abi_test.py")
                    return 1
                body = body.replace(field, "")
            text = text[:start] + body + text[end:]
        header.write_text(text)
        program = link(compiler("gcc", "clang"), source, (source / "tests/abi/old_program.c").read_text(), folder,
                       library, "old_program", "-std=c99", "-I", str(folder / "include"), *STRICT)
        if program is None:
            return 1
        done = run([str(program), str(source / "models/countdown")])
        print(done.stdout + done.stderr, end="")
        return done.returncode


def describe(source, folder):
    """The ABI of the header, as abidw tells it: from a library of the same functions without content."""
    stubs = ["#include <ponder/ponder.h>"]
    for _, result, name, arguments in functions(source / "include/ponder/ponder.h"):
        value = "" if result == "void" else "return 0;"
        stubs.append(f"{result} {name}({arguments}) {{ {value} }}")
    (folder / "stubs.c").write_text("\n".join(stubs) + "\n")
    done = run([compiler("gcc", "clang"), "-std=c99", "-g", "-shared", "-fPIC", "-w", "-Wl,-soname,libponder.so.0",
                f"-Wl,--version-script={source / 'lib/capi/ponder.map'}", "-I", str(source / "include"),
                "-o", str(folder / "libponder.so"), str(folder / "stubs.c")])
    if done.returncode:
        print(done.stderr)
        sys.exit(1)
    return folder / "libponder.so"


def check_abidiff(source, _):
    if not shutil.which("abidiff"):
        skip("abidiff is not installed (Debian package abigail-tools)")
    with tempfile.TemporaryDirectory() as folder:
        library = describe(source, pathlib.Path(folder))
        done = run(["abidiff", str(source / "tests/abi/ponder.abi"), str(library)])
    if done.returncode == 0:
        print("abidiff: ok, the ABI is the recorded one")
        return 0
    print(done.stdout + done.stderr)
    if done.returncode & 8 or done.returncode & 3:
        print("abidiff: INCOMPATIBLE with programs that exist; this may not be released")
    else:
        print("abidiff: the ABI changed. If it only grew: add rows to symbols.txt, ponder.map and layout.c, an entry "
              "to CHANGELOG.md, then `tests/abi/abi_test.py record .`")
    return 1


def record(source, _):
    if not shutil.which("abidw"):
        skip("abidw is not installed (Debian package abigail-tools)")
    with tempfile.TemporaryDirectory() as folder:
        library = describe(source, pathlib.Path(folder))
        done = run(["abidw", "--no-corpus-path", "--no-comp-dir-path", "--no-show-locs", "--out-file", str(source / "tests/abi/ponder.abi"), str(library)])
    print(done.stdout + done.stderr, end="")
    return done.returncode


def main():
    checks = {"headers": check_headers, "references": check_references, "old": check_old,
              "abidiff": check_abidiff, "record": record}
    if len(sys.argv) < 3 or sys.argv[1] not in checks:
        print(__doc__)
        return 2
    library = pathlib.Path(sys.argv[3]).resolve() if len(sys.argv) > 3 else None
    return int(checks[sys.argv[1]](pathlib.Path(sys.argv[2]).resolve(), library) or 0)


if __name__ == "__main__":
    sys.exit(main())

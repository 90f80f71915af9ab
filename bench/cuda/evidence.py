#!/usr/bin/env python3
"""What the CUDA compiler made of the kernels: registers, stack, spills, shared memory and how many matrix instructions.

Usage: evidence.py [--arch sm_90] [--absl PREFIX/include] [--nvcc nvcc] [--cuobjdump cuobjdump]

Needs the CUDA toolkit, no GPU. Compiles backends/cuda/*.cu as the build does. Prints a table, one kernel per line; exits with
1 when a kernel spills registers or one that is there for the matrix instructions (*_mma) has none. Without cuobjdump the last
column is taken from PTX.
"""
import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

FLAGS = ["-std=c++20", "-O2", "-fmad=false", "--expt-relaxed-constexpr"]
DTYPES = {"0": "f32", "1": "f16", "2": "bf16", "4": "f8_e4m3", "9": "q8_0"}  # lib/tensor/dtype.h
MATRIX = re.compile(r"\b(HMMA|IMMA|QMMA|HGMMA|IGMMA|QGMMA|mma\.sync|wgmma)\b")


def short(mangled):
    """ponder::cuda::(anonymous)::linear<F16> of a mangled name, as far as c++filt is there."""
    if shutil.which("c++filt") is None:
        return mangled
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    name = re.sub(r"\(anonymous namespace\)::|_INTERNAL_\w+::|ponder::cuda::|ponder::|^void ", "", name)
    name = re.sub(r"\(DType\)(\d+)", lambda m: DTYPES.get(m[1], m[1]), name)
    return name.split("(")[0] if not name.startswith("(") else name


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--absl", default="")
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--cuobjdump", default="cuobjdump")
    args = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parents[2]
    bad = []
    print(f"{'file':16} {'kernel':40} {'registers':>9} {'stack':>6} {'spills':>6} {'shared':>7} {'matrix':>7}")
    for source in sorted((root / "backends/cuda").glob("*.cu")):
        with tempfile.TemporaryDirectory() as folder:
            common = [args.nvcc, *FLAGS, f"-arch={args.arch}", f"-I{root}"]
            if args.absl:
                common += ["-isystem", args.absl]
            cubin = pathlib.Path(folder, "kernels.cubin")
            told = subprocess.run([*common, "-cubin", "-Xptxas", "-v", "-o", cubin, source], check=True,
                                  capture_output=True, text=True).stderr
            if shutil.which(args.cuobjdump):
                code = subprocess.run([args.cuobjdump, "-sass", cubin], check=True, capture_output=True, text=True).stdout
                parts = re.split(r"^\s*Function : (\S+)", code, flags=re.M)
            else:
                ptx = pathlib.Path(folder, "kernels.ptx")
                subprocess.run([*common, "-ptx", "-o", ptx, source], check=True)
                parts = re.split(r"^\.visible \.entry (\w+)|^\.entry (\w+)", ptx.read_text(), flags=re.M)
                parts = [parts[0]] + [p for p in parts[1:] if p is not None]
        matrix = {name: len(MATRIX.findall(body)) for name, body in zip(parts[1::2], parts[2::2])}
        found = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
                           r"(\d+) bytes spill loads.*?Used (\d+) registers(.*?)$", told, re.S | re.M)
        for name, stack, stores, loads, registers, rest in found:
            shared = re.search(r"(\d+) bytes smem", rest)
            spills = int(stores) + int(loads)
            print(f"{source.name:16} {short(name):40} {registers:>9} {stack:>6} {spills:>6} "
                  f"{shared[1] if shared else 0:>7} {matrix.get(name, 0):>7}")
            if spills:
                bad.append(f"{source.name}: {short(name)} spills {spills} bytes")
            if re.match(r"\w+_mma\b", short(name)) and not matrix.get(name):
                bad.append(f"{source.name}: {short(name)} has no matrix instructions")
        if not found:
            bad.append(f"{source.name}: the compiler told of no kernel")
    print("\n".join(bad) if bad else "no spills; the matrix instructions are there")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""What the CUDA compiler made of the kernels: registers, stack, spills, shared memory and the instructions that matter.

Usage: evidence.py [--arch sm_90a] [--only FILE.cu]... [--absl PREFIX/include] [--nvcc nvcc] [--cuobjdump cuobjdump]

Needs the CUDA toolkit, no GPU. Compiles backends/cuda/*.cu as the build does. Prints a table, one kernel per line; exits with
1 when a kernel spills registers, lacks an instruction that it is written around (REQUIRED) or has one that it must not have
(FORBIDDEN). Without cuobjdump instructions are counted in PTX, but for those whose opcode is known here.
"""
import argparse
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

FLAGS = ["-std=c++20", "-O2", "-fmad=false", "--expt-relaxed-constexpr"]
# Name: how it looks in PTX, in machine code, and which architectures have it.
INSTRUCTIONS = {
    "dp4a": (r"\bdp4a\.", r"\bIDP\.4A", lambda arch: arch >= 61),
    "mma bf16": (r"\bmma\.sync\S*\.bf16\.bf16", r"\bHMMA\S*\.BF16", lambda arch: arch >= 80),
    "mma f16": (r"\bmma\.sync\S*\.f16\.f16", r"\bHMMA(?!\S*BF16)", lambda arch: arch >= 75),
    "mma s8": (r"\bmma\.sync\S*\.s8\.s8", r"\bIMMA", lambda arch: arch >= 75),
    "mma f8": (r"\bmma\.sync\S*\.e4m3\.e4m3", r"\bQMMA", lambda arch: arch == 89 or arch >= 120),
    "wgmma f8": (r"\bwgmma\.mma_async\S*\.e4m3\.e4m3", r"\bQGMMA", lambda arch: arch == 90),
    "cp.async": (r"\bcp\.async\.c[ag]", r"\bLDGSTS", lambda arch: arch >= 80),
}
# Where PTX does not tell: sm_90 and sm_100 take mma f8 for conversions and HMMA. The lowest 12 bits of an instruction in the
# machine code of sm_75 on, as one instruction compiled by itself shows them.
OPCODES = {"mma f8": 0x27a}
DTYPES = {"0": "f32", "1": "f16", "2": "bf16", "4": "f8_e4m3", "9": "q8_0"}  # lib/tensor/dtype.h
# File, kernel, what it must contain. Forms are numbered as in launch_linear.h.
REQUIRED = [
    ("attention_mma.cu", r"attention_mma<bf16", "mma bf16"),
    ("attention_mma.cu", r"attention_mma<(f16|f8_e4m3|q8_0)", "mma f16"),
    ("attention_mma.cu", r"attention_mma", "cp.async"),
    ("linear_mma.cu", r"(few|many)_rows<\(Form\)1", "mma bf16"),
    ("linear_mma.cu", r"(few|many)_rows<\(Form\)[23]", "mma f16"),
    ("linear_mma.cu", r"(few|many)_rows<\(Form\)4", "mma f8"),
    ("linear_mma.cu", r"many_rows<\(Form\)[123]", "cp.async"),
    ("linear_quant.cu", r"quant_few", "dp4a"),
    ("linear_quant_tiles.cu", r"quant_tiles", "mma s8"),
    ("linear_quant_tiles.cu", r"quant_tiles", "cp.async"),
    ("linear_wgmma.cu", r"code_products", "wgmma f8"),
    ("mla.cu", r"head_products_mma<bf16", "mma bf16"),
    ("mla.cu", r"head_products_mma<f16", "mma f16"),
    ("mla_mma.cu", r"mla_mma<bf16", "mma bf16"),
    ("mla_mma.cu", r"mla_mma<f16", "mma f16"),
]
# File, what its PTX must not contain, and why.
FORBIDDEN = [
    ("digest.cu", r"\bfma\.rn", "sums must be rounded as the host's are"),
]


def short(mangled):
    """few_rows<(Form)1, 4> of a mangled name, as far as c++filt is there."""
    if shutil.which("c++filt") is None:
        return mangled
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    name = re.sub(r"\(anonymous namespace\)::|_INTERNAL_\w+::|ponder::cuda::|ponder::|^void ", "", name)
    name = re.sub(r"\(DType\)(\d+)", lambda m: DTYPES.get(m[1], m[1]), name)
    return name[:name.index(">(") + 1] if ">(" in name else name.split("(")[0]


def counts(told, machine):
    """{instruction: how often} in one kernel's code."""
    return {name: len(re.findall(sass if machine else ptx, told)) for name, (ptx, sass, _) in INSTRUCTIONS.items()}


def opcodes(cubin):
    """{kernel: the opcodes of its instructions, 16 bytes each} of an ELF file."""
    data = cubin.read_bytes()
    table, (width, count, names) = struct.unpack_from("<Q", data, 0x28)[0], struct.unpack_from("<HHH", data, 0x3a)
    sections = [struct.unpack_from("<IIQQQQ", data, table + i * width) for i in range(count)]
    found = {}
    for name, _, _, _, at, size in sections:
        title = data[sections[names][4] + name:].split(b"\0", 1)[0].decode()
        if title.startswith(".text."):
            found[title[6:]] = [struct.unpack_from("<H", data, i)[0] & 0xfff for i in range(at, at + size, 16)]
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="sm_90a")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--absl", default="")
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--cuobjdump", default="cuobjdump")
    args = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parents[2]
    arch = int(re.search(r"\d+", args.arch)[0])
    machine = shutil.which(args.cuobjdump) is not None
    bad = []
    print(f"{'file':22} {'kernel':40} {'registers':>9} {'stack':>6} {'spills':>6} {'shared':>7}  instructions")
    for source in sorted((root / "backends/cuda").glob("*.cu")):
        if args.only and source.name not in args.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            common = [args.nvcc, *FLAGS, f"-arch={args.arch}", f"-I{root}"]
            if args.absl:
                common += ["-isystem", args.absl]
            cubin = pathlib.Path(folder, "kernels.cubin")
            ptx = pathlib.Path(folder, "kernels.ptx")
            subprocess.run([*common, "-ptx", "-o", ptx, source], check=True)
            told = subprocess.run([*common[:1], f"-arch={args.arch}", "-cubin", "-Xptxas", "-v", "-o", cubin, ptx], check=True,
                                  capture_output=True, text=True).stderr
            bad += [f"{source.name}: {pattern} in PTX: {why}" for file, pattern, why in FORBIDDEN
                    if file == source.name and re.search(pattern, ptx.read_text())]
            if machine:
                code = subprocess.run([args.cuobjdump, "-sass", cubin], check=True, capture_output=True, text=True).stdout
                parts = re.split(r"^\s*Function : (\S+)", code, flags=re.M)
            else:
                parts = re.split(r"^\.visible \.entry (\w+)|^\.entry (\w+)", ptx.read_text(), flags=re.M)
                parts = [parts[0]] + [p for p in parts[1:] if p is not None]
            codes = {} if machine else opcodes(cubin)
        has = {name: counts(body, machine) for name, body in zip(parts[1::2], parts[2::2])}
        for name, own in codes.items():
            has[name].update({what: own.count(code) for what, code in OPCODES.items()})
        found = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
                           r"(\d+) bytes spill loads.*?Used (\d+) registers(.*?)$", told, re.S | re.M)
        for name, stack, stores, loads, registers, rest in found:
            shared = re.search(r"(\d+) bytes smem", rest)
            spills = int(stores) + int(loads)
            kernel, own = short(name), has.get(name, {})
            print(f"{source.name:22} {kernel:40} {registers:>9} {stack:>6} {spills:>6} {shared[1] if shared else 0:>7}  "
                  + ", ".join(f"{n} {what}" for what, n in own.items() if n))
            if spills:
                bad.append(f"{source.name}: {kernel} spills {spills} bytes")
            for file, pattern, what in REQUIRED:
                if file == source.name and re.match(pattern, kernel) and INSTRUCTIONS[what][2](arch) and not own.get(what):
                    bad.append(f"{source.name}: {kernel} has no {what}")
        if not found:
            bad.append(f"{source.name}: the compiler told of no kernel")
    print("\n".join(bad) if bad else "no spills; the instructions are there")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

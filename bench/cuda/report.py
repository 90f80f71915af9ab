#!/usr/bin/env python3
"""All that a GPU is needed for, in one call: are the kernels right, and how fast are they.

    bench/cuda/report.py build/cuda-sm90                   # a build with tests and tools
    bench/cuda/report.py build/cuda-sm90 --json report.json --seconds 570 --layers 8

First correctness: every op against the reference backend (conformance), whole models against the reference data
(golden_models_test, where ../shared is), a part of it under compute-sanitizer where that is installed. Then speed, each beside
two ceilings measured in the same run: the rate of copies on the device, and cuBLASLt's best product of bf16 matrices. Models
have random weights and the shapes of real ones, cut to --layers; transformers runs the same folder where it is installed.
Steps that the time left does not allow are listed as not run. Without a device it says so and ends with 0. Python's standard
library is enough; nothing is downloaded.
"""
import argparse
import ctypes
import importlib.util
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time


class Cuda:
    """The driver, as far as the ceilings need it."""

    def __init__(self):
        self.lib = ctypes.CDLL("libcuda.so.1")
        self("cuInit", 0)
        device = ctypes.c_int()
        self("cuDeviceGet", ctypes.byref(device), 0)
        name = ctypes.create_string_buffer(256)
        self("cuDeviceGetName", name, 255, device)
        self.name = name.value.decode()
        self.capability = 0  # 89: 8.9
        for which in (75, 76):
            value = ctypes.c_int()
            self("cuDeviceGetAttribute", ctypes.byref(value), which, device)
            self.capability = 10 * self.capability + value.value
        context = ctypes.c_void_p()
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self("cuCtxSetCurrent", context)
        self.events = [ctypes.c_void_p(), ctypes.c_void_p()]
        for event in self.events:
            self("cuEventCreate", ctypes.byref(event), 0)

    def __call__(self, name, *arguments):
        error = getattr(self.lib, name)(*arguments)
        if error != 0:
            raise RuntimeError(f"{name}: CUDA error {error}")

    def allocate(self, size):
        memory = ctypes.c_uint64()
        self("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size))
        self("cuMemsetD8_v2", memory, ctypes.c_ubyte(0), ctypes.c_size_t(size))
        return memory

    def free(self, *pieces):
        for memory in pieces:
            self("cuMemFree_v2", memory)

    def seconds(self, work, times):
        """Of one call, the median of five runs of `times`."""
        work()
        runs = []
        for _ in range(5):
            self("cuEventRecord", self.events[0], None)
            for _ in range(times):
                work()
            self("cuEventRecord", self.events[1], None)
            self("cuEventSynchronize", self.events[1])
            ms = ctypes.c_float()
            self("cuEventElapsedTime", ctypes.byref(ms), *self.events)
            runs.append(ms.value / 1e3 / times)
        return statistics.median(runs)


def copy_ceiling(cuda):
    """Bytes read and written a second."""
    size = 1 << 30
    a, b = cuda.allocate(size), cuda.allocate(size)
    taken = cuda.seconds(lambda: cuda("cuMemcpyDtoDAsync_v2", b, a, ctypes.c_size_t(size), None), 10)
    cuda.free(a, b)
    return 2 * size / taken


def gemm_ceiling(cuda, n=8192):
    """Operations a second of the best of a few bf16 products, by cuBLASLt; None: it is not installed."""
    for name in ("libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"):
        try:
            lt = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        return None

    def call(function, *arguments):
        error = getattr(lt, function)(*arguments)
        if error != 0:
            raise RuntimeError(f"{function}: cuBLAS error {error}")

    handle, product = ctypes.c_void_p(), ctypes.c_void_p()
    call("cublasLtCreate", ctypes.byref(handle))
    call("cublasLtMatmulDescCreate", ctypes.byref(product), 68, 0)  # sums and factors in float32
    transposed = ctypes.c_int32(1)
    call("cublasLtMatmulDescSetAttribute", product, 3, ctypes.byref(transposed), ctypes.c_size_t(4))  # x W^T
    layout = ctypes.c_void_p()
    call("cublasLtMatrixLayoutCreate", ctypes.byref(layout), 14, ctypes.c_uint64(n), ctypes.c_uint64(n),
         ctypes.c_int64(n))  # bf16
    workspace_size = 64 << 20
    a, b, d = (cuda.allocate(2 * n * n) for _ in range(3))
    workspace = cuda.allocate(workspace_size)
    one, zero = ctypes.c_float(1), ctypes.c_float(0)

    def multiply():
        call("cublasLtMatmul", handle, product, ctypes.byref(one), ctypes.c_void_p(a.value), layout,
             ctypes.c_void_p(b.value), layout, ctypes.byref(zero), ctypes.c_void_p(d.value), layout,
             ctypes.c_void_p(d.value), layout, None, ctypes.c_void_p(workspace.value),
             ctypes.c_size_t(workspace_size), None)

    taken = cuda.seconds(multiply, 5)
    cuda.free(a, b, d, workspace)
    return 2 * n ** 3 / taken


class Report:
    def __init__(self, args):
        self.args = args
        self.end = time.monotonic() + args.seconds
        self.rows = []  # what, result, beside what
        self.json = {"checks": [], "rates": [], "not_run": []}
        self.bad = False

    def left(self):
        return self.end - time.monotonic()

    def add(self, what, result, remark=""):
        self.rows.append((what, result, remark))
        print(f"{what:44} {result:>22}  {remark}", flush=True)

    def skip(self, what, why):
        self.json["not_run"].append({"what": what, "why": why})
        self.add(what, "not run", why)

    def program(self, *parts):
        path = self.args.build.joinpath(*parts)
        return path if path.exists() else None

    def run(self, command, limit):
        """CompletedProcess, or None when it took longer than `limit` or the time left."""
        limit = min(limit, self.left())
        if limit < 5:
            return None
        try:
            return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return None

    # ---- is it right -------------------------------------------------------------------------

    def check(self, what, program, *arguments, limit=120, before=()):
        if program is None:
            return self.skip(what, "not built: configure with PONDER_BUILD_TESTS=ON")
        done = self.run([*before, program, *arguments], limit)
        if done is None:
            return self.skip(what, "no time left, or it took too long")
        passed = re.search(r"\[  PASSED  \] (\d+)", done.stdout)
        failed = re.findall(r"^\[  FAILED  \] ([\w./]+)", done.stdout, re.M)
        skipped = re.search(r"\[  SKIPPED \] (\d+)", done.stdout)
        entry = {"what": what, "status": done.returncode, "passed": int(passed[1]) if passed else 0,
                 "skipped": int(skipped[1]) if skipped else 0, "failed": sorted(set(failed))}
        self.json["checks"].append(entry)
        ok = done.returncode == 0
        self.bad |= not ok
        if not ok:
            entry["output"] = (done.stdout + done.stderr)[-4000:]
        text = f"{entry['passed']} passed" if ok else f"FAILED ({len(entry['failed'])})"
        self.add(what, text, f"{entry['skipped']} skipped" if entry["skipped"] else " ".join(entry["failed"][:3]))

    def checks(self):
        conformance = self.program("tests", "conformance", "conformance")
        golden = self.program("tests", "golden", "golden_models_test")
        self.check("ops against the reference (conformance)", conformance, "--gtest_filter=*cuda*", limit=150)
        self.check("models against the reference data", golden, "--gtest_filter=*cuda*", limit=90)
        sanitizer = shutil.which("compute-sanitizer")
        if sanitizer is None:
            self.skip("compute-sanitizer", "not installed")
        else:
            self.check("compute-sanitizer, elementwise ops and attention", conformance,
                       "--gtest_filter=*Elementwise*cuda*:*AttentionConformance*Copied*cuda*", limit=90,
                       before=[sanitizer, "--error-exitcode", "99"])

    # ---- how fast ----------------------------------------------------------------------------

    def rate(self, what, model, part, batch=1, prompt=0, generate=0, depth=64, context=0, precision="auto", limit=60):
        ponder = self.program("tools", "ponder")
        command = [ponder, "bench", model, "--device", "cuda:0", "--json", "-p", prompt, "-n", generate, "-d", depth,
                   "-b", batch, "-r", 3, "--precision", precision]
        if context:
            command += ["--context", context]
        done = self.run(command, limit)
        if done is None:
            return self.skip(what, "no time left, or it took too long")
        if done.returncode != 0:
            self.bad = True
            return self.skip(what, (done.stderr.strip().splitlines() or ["it failed"])[-1])
        found = json.loads(done.stdout)[part]["tokens_per_s"]
        needs = json.loads(self.run([ponder, "info", model, "--plan", "--json", "--device", "cuda:0"], 30).stdout)
        needs = needs.get("needs", needs)
        entry = {"what": what, "model": str(model), "batch": batch, "tokens_per_s": found["median"],
                 "least": found["min"], "greatest": found["max"]}
        weights = needs.get("token_bytes", 0)
        if part == "decode" and self.copy:
            # All weights that a token reads, once per step of the whole batch.
            entry["weight_bytes_per_s"] = found["median"] / batch * weights
            entry["of_copy"] = entry["weight_bytes_per_s"] / self.copy
        if part == "prefill" and self.gemm and needs.get("parameters"):
            entry["operations_per_s"] = 2 * needs["parameters"] * found["median"]
            entry["of_gemm"] = entry["operations_per_s"] / self.gemm
        self.json["rates"].append(entry)
        ceiling = (f"{entry['of_copy']:.0%} of the copy rate" if "of_copy" in entry
                   else f"{entry['of_gemm']:.0%} of cuBLASLt" if "of_gemm" in entry else "")
        self.add(what, f"{found['median']:.1f} tokens/s", f"({found['min']:.1f} to {found['max']:.1f}) {ceiling}")

    def rates(self, folder):
        cuda = Cuda()
        self.json["device"] = cuda.name
        self.copy, self.gemm = copy_ceiling(cuda), gemm_ceiling(cuda)
        self.json["ceilings"] = {"copy_bytes_per_s": self.copy, "gemm_operations_per_s": self.gemm}
        self.add("ceiling: copies on the device", f"{self.copy / 1e9:.0f} GB/s", "read and written")
        if self.gemm is None:
            self.skip("ceiling: product of bf16 matrices", "cuBLASLt is not installed")
        else:
            self.add("ceiling: product of bf16 matrices", f"{self.gemm / 1e12:.0f} TFLOP/s", "cuBLASLt, 8192 cubed")
        maker = self.program("tools", "golden", "ponder-make-checkpoint")
        if maker is None or self.program("tools", "ponder") is None:
            return self.skip("rates of models", "not built: configure with PONDER_BUILD_TOOLS=ON")
        layers = ["--layers", self.args.layers]
        made = {}

        def model(name, *options, suffix=""):
            path = folder / (name + suffix)
            if name not in made:
                done = self.run([maker, path, *options], 120)
                made[name] = path if done is not None and done.returncode == 0 else None
            return made[name]

        cases = [
            ("Qwen2.5-7B, bf16, decode", ("7b-bf16", "--shape", "qwen2.5-7b", *layers), "",
             dict(part="decode", generate=64)),
            ("Qwen2.5-7B, bf16, decode, 64 at a time", ("7b-bf16",), "", dict(part="decode", generate=32, batch=64)),
            ("Qwen2.5-7B, bf16, prefill of 2048", ("7b-bf16",), "", dict(part="prefill", prompt=2048)),
            ("Qwen2.5-7B, bf16, decode at 32K", ("7b-bf16",), "",
             dict(part="decode", generate=16, depth=32000, context=32768, limit=90)),
            ("Qwen2.5-7B, q4_k, decode", ("7b-q4", "--shape", "qwen2.5-7b", *layers, "--dtype", "q4_k"), ".gguf",
             dict(part="decode", generate=64)),
            ("Qwen2.5-7B, fp8, decode", ("7b-fp8", "--shape", "qwen2.5-7b", *layers, "--dtype", "fp8"), "",
             dict(part="decode", generate=64)),
            ("Qwen2.5-7B, fp8, prefill of 2048", ("7b-fp8",), "", dict(part="prefill", prompt=2048)),
            ("Qwen2.5-7B, fp8, inputs in fp8, decode", ("7b-fp8",), "", dict(part="decode", generate=64, precision="fp8")),
            ("Qwen2.5-7B, fp8, inputs in fp8, prefill of 2048", ("7b-fp8",), "",
             dict(part="prefill", prompt=2048, precision="fp8")),
            ("DeepSeek-V2-Lite, latent attention, decode at 4K",
             ("v2-lite", "--shape", "deepseek-v2-lite", "--layers", 4), "",
             dict(part="decode", generate=32, depth=4000, context=8192)),
            ("DeepSeek-R1, one layer of experts, decode",
             ("r1-layer", "--shape", "deepseek-r1", "--layers", 1, "--dense-layers", 0, "--no-mtp", "--vocab", 1024,
              "--dtype", "fp8", "--shard-size", "4G"), "", dict(part="decode", generate=64)),
            ("DeepSeek-R1, one layer of experts, inputs in fp8, decode", ("r1-layer",), "",
             dict(part="decode", generate=64, precision="fp8")),
        ]
        for what, options, suffix, measure in cases:
            if self.left() < 30:
                self.skip(what, "no time left")
                continue
            if measure.get("precision") == "fp8" and cuda.capability != 89 and cuda.capability < 120:
                self.skip(what, "this GPU multiplies FP8 as binary16: fp8 is auto")
                continue
            path = model(*options, suffix=suffix)
            if path is None:
                self.skip(what, "its checkpoint could not be made in time")
                continue
            self.rate(f"{what}", path, **measure)
        if made.get("7b-bf16"):
            self.transformers(made["7b-bf16"])

    def transformers(self, path):
        for mode in ("eager", "compiled"):
            what = f"transformers, {mode}, the same bf16 folder, decode"
            if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
                self.skip(what, "torch or transformers is not installed")
                continue
            done = self.run([sys.executable, "-c", TRANSFORMERS, path, mode], 120)
            if done is None or done.returncode != 0:
                why = "no time left, or it took too long" if done is None else done.stderr.strip().splitlines()[-1]
                self.skip(what, why)
                continue
            rate = float(done.stdout.split()[-1])
            self.json["rates"].append({"what": what, "tokens_per_s": rate})
            self.add(what, f"{rate:.1f} tokens/s")


TRANSFORMERS = """
import sys, time, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], torch_dtype=torch.bfloat16).cuda().eval()
ids = torch.randint(0, 1000, (1, 64), device="cuda")
options = dict(do_sample=False, pad_token_id=0, eos_token_id=None)
if sys.argv[2] == "compiled":
    options["cache_implementation"] = "static"
    model.forward = torch.compile(model.forward, mode="reduce-overhead")
def run(n):
    torch.cuda.synchronize()
    begin = time.perf_counter()
    model.generate(ids, max_new_tokens=n, min_new_tokens=n, **options)
    torch.cuda.synchronize()
    return time.perf_counter() - begin
run(8), run(72)
print(64 / (run(72) - run(8)))
"""


def device_there():
    try:
        Cuda()
        return True
    except (OSError, RuntimeError):
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="a build folder with CUDA, tests and tools")
    parser.add_argument("--json", type=pathlib.Path, help="write all figures to this file")
    parser.add_argument("--seconds", type=float, default=570, help="for everything together")
    parser.add_argument("--layers", type=int, default=8, help="of the 7B-shaped models (28 in the real one)")
    parser.add_argument("--folder", type=pathlib.Path, help="where models are made (default: a temporary folder)")
    args = parser.parse_args()
    report = Report(args)
    report.json["layers"] = args.layers
    if not device_there():
        print("no CUDA device: nothing was checked and nothing was measured")
        report.json["device"] = None
    else:
        report.checks()
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            report.rates(pathlib.Path(folder))
        print("all checks passed" if not report.bad else "something FAILED")
    if args.json:
        args.json.write_text(json.dumps(report.json, indent=1) + "\n")
    return 1 if report.bad else 0


if __name__ == "__main__":
    sys.exit(main())

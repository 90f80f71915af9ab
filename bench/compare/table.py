#!/usr/bin/env python3
"""Makes the table of docs/kernels/cpu.md: ponder and other programs on the same GGUF files.

    table.py --ponder build/bench/tools/ponder --files '/models/q-{type}.gguf' \\
             --peer llama.cpp='llama-bench' [--peer-files llama.cpp='/root/q-{type}.gguf'] \\
             --bandwidth build/bench/bench/kernels/bench_kernels --json table.json

Every figure is the median over rounds; in each round all programs run once, in turn, since machines
change speed by the minute, and before each round the read bandwidth is measured. A peer is any
llama-bench program; --peer-files says where it sees the files (another root, say). Figures go into
--json as they come and are not measured again, so the script may be stopped and started.

    prefill    512 tokens of prompt                            tokens/s
    decode     64 tokens one at a time, after 0 or 4096        tokens/s
    batch 8    ponder: 8 sequences decode together; llama-bench, which cannot do that: a prompt of 8
               tokens, the same products with the weights and less attention and output, tokens/s
    start      from starting the program until it has computed one token, file cached, seconds
    peak       most memory resident meanwhile, mapped file included
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time

CASES = {  # name: (prompt, generate, depth, batch, repetitions, rounds or None)
    "prefill": (512, 0, 0, 1, 2, None),
    "decode": (0, 64, 0, 1, 2, None),
    "decode@4096": (0, 32, 4096, 1, 1, 1),
    "batch 8": (0, 32, 0, 8, 2, None),
    "start": (1, 0, 0, 1, 1, None),
}
TYPES = ["BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS"]


class Program:
    def __init__(self, name, command, files, is_ponder):
        self.name, self.command, self.files, self.is_ponder = name, command, files, is_ponder

    def measure(self, case, kind, threads):
        """(samples, peak bytes)"""
        prompt, generate, depth, batch, repeat, _ = CASES[case]
        path = self.files.replace("{type}", kind)
        if self.is_ponder:
            command = self.command + ["bench", path, "-p", str(prompt), "-n", str(generate), "-d",
                                      str(depth), "-b", str(batch), "-t", str(threads), "-r",
                                      str(repeat), "--json"]
        else:
            if batch > 1:
                prompt, generate = batch, 0
            if depth and "-d" not in self.options():  # ik_llama.cpp says it so
                work = ["-p", "0", "-n", "0", "-gp", f"{depth},{generate}"]
            else:
                work = ["-p", str(prompt), "-n", str(generate)] + (["-d", str(depth)] if depth else [])
            command = self.command + ["-m", path, *work, "-t", str(threads), "-r", str(repeat), "-o",
                                      "json"]
            if case == "start":
                command += ["-w", "0"] if "-w" in self.options() else ["--no-warmup"]
        begun = time.monotonic()
        out, peak = run(command)
        seconds = time.monotonic() - begun
        if case == "start":
            return [seconds], peak
        result = json.loads(out)
        if self.is_ponder:
            return result["prefill" if prompt else "decode"]["tokens_per_s"]["samples"], peak
        return result[-1]["samples_ts"], peak

    def options(self):
        if not hasattr(self, "_options"):
            done = subprocess.run(self.command + ["--help"], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True)
            self._options = [w.strip(",") for w in done.stdout.split() if w.startswith("-")]
        return self._options


def run(command):
    """Output and peak resident bytes of a command that must succeed."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True) as process:
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}: status {process.returncode}")
    return out, usage.ru_maxrss * 1024


def bandwidth(command, threads):
    """GB/s that `threads` threads read at this moment."""
    out, _ = run(command + [f"--pool_threads={threads}", "--benchmark_filter=^read_bandwidth",
                            "--benchmark_min_time=0.5", "--benchmark_format=json"])
    rows = json.loads(out)["benchmarks"]
    return statistics.median(row["bytes_per_second"] for row in rows if "bytes_per_second" in row) / 1e9


def cell(value, case):
    if value is None:
        return "-"
    return f"{value:.2f}" if case == "start" else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def write_table(results, programs, kinds, threads):
    peers = [p.name for p in programs[1:]]
    for t in threads:
        print(f"\n{t} thread{'s' if t > 1 else ''}\n")
        print("| type | case | ponder | " + " | ".join(peers) + " | ponder / best | GB/s read |")
        print("|---|---|" + "---|" * (len(peers) + 3))
        for kind in kinds:
            for case in CASES:
                found = [results.get(f"{kind}/{case}/{t}/{p.name}") for p in programs]
                if found[0] is None:
                    continue
                medians = [statistics.median(f["samples"]) if f else None for f in found]
                others = [m for m in medians[1:] if m]
                best = (min if case == "start" else max)(others) if others else None
                ratio = "-"
                if best:
                    ratio = f"{best / medians[0] if case == 'start' else medians[0] / best:.2f}x"
                band = results.get(f"{kind}/{case}/{t}/bandwidth")
                print(f"| {kind} | {case} | " + " | ".join(cell(m, case) for m in medians)
                      + f" | {ratio} | "
                      + (f"{statistics.median(band['samples']):.0f} |" if band else "- |"))
            peaks = [results.get(f"{kind}/start/{t}/{p.name}") for p in programs]
            if peaks[0]:
                print(f"| {kind} | peak, MB | "
                      + " | ".join(f"{f['peak'] / 1e6:.0f}" if f else "-" for f in peaks)
                      + " | | |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ponder", required=True, help="the ponder command")
    parser.add_argument("--files", required=True, help="path with {type}")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--peer-files", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--bandwidth", metavar="COMMAND", help="bench_kernels of this tree")
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("-t", "--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", required=True, metavar="FILE", help="figures, kept and added to")
    args = parser.parse_args()

    places = dict(text.split("=", 1) for text in args.peer_files)
    programs = [Program("ponder", shlex.split(args.ponder), args.files, True)]
    for text in args.peer:
        name, command = text.split("=", 1)
        programs.append(Program(name, shlex.split(command), places.get(name, args.files), False))

    results = {}
    if os.path.exists(args.json):
        with open(args.json, encoding="utf-8") as f:
            results = json.load(f)
    for threads in args.threads:
        for kind in args.types:
            for case in args.cases:
                keys = {p.name: f"{kind}/{case}/{threads}/{p.name}" for p in programs}
                todo = [p for p in programs if keys[p.name] not in results]
                if not todo:
                    continue
                found = {p.name: {"samples": [], "peak": 0} for p in programs}
                band = []
                for turn in range(CASES[case][5] or args.rounds):
                    if args.bandwidth:
                        band.append(bandwidth(shlex.split(args.bandwidth), threads))
                    for program in programs:
                        try:
                            samples, peak = program.measure(case, kind, threads)
                        except RuntimeError as error:
                            print(f"table: {error}", file=sys.stderr)
                            continue
                        found[program.name]["samples"] += samples
                        found[program.name]["peak"] = max(found[program.name]["peak"], peak)
                        print(f"{kind} {case} {threads} threads, round {turn + 1}: {program.name} "
                              + " ".join(f"{s:.2f}" for s in samples), file=sys.stderr, flush=True)
                for program in programs:
                    if found[program.name]["samples"]:
                        results[keys[program.name]] = found[program.name]
                if band:
                    results[f"{kind}/{case}/{threads}/bandwidth"] = {"samples": band}
                with open(args.json, "w", encoding="utf-8") as f:
                    json.dump(results, f, indent=1)
                    f.write("\n")
    write_table(results, programs, args.types, args.threads)


if __name__ == "__main__":
    main()

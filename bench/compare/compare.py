#!/usr/bin/env python3
"""Runs `ponder bench` and llama-bench alternately on the same weights and compares the medians.

    compare.py --ponder build/release/tools/ponder --model FOLDER \\
               --llama-bench llama-bench --gguf MODEL.gguf [-p 512] [-n 64] [-d 0] [-t 2] [--json OUT]

Machines change speed by the minute, so one figure alone says little: each round runs every program
once, in turn, and what is compared is the median over all rounds of one and the same session.

--llama-bench may be given several times, as NAME=COMMAND or COMMAND; a command may have arguments
("chroot /srv/sid llama-bench"). --gguf is the path as that command sees it. hf_to_gguf.py beside
this file makes the GGUF of a Qwen2 checkpoint.
"""
import argparse
import json
import shlex
import statistics
import subprocess
import sys


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["(no message)"]
        raise SystemExit(f"compare: {shlex.join(command)}: status {done.returncode}: {last[0]}")
    return done.stdout


def run_ponder(command, args):
    out = run(command + ["bench", args.model, "-p", str(args.prompt), "-n", str(args.generate), "-d",
                         str(args.depth), "-t", str(args.threads), "-r", str(args.repeat), "--json"])
    result = json.loads(out)
    return {part: result[part]["tokens_per_s"]["samples"] for part in ("prefill", "decode")
            if part in result}


def run_llama_bench(command, args):
    out = run(command + ["-m", args.gguf, "-p", str(args.prompt), "-n", str(args.generate), "-d",
                         str(args.depth), "-t", str(args.threads), "-r", str(args.repeat), "-o", "json"])
    parts = {}
    for row in json.loads(out):
        parts["prefill" if row["n_prompt"] else "decode"] = row["samples_ts"]
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ponder", required=True, help="the ponder command")
    parser.add_argument("--model", required=True, help="the checkpoint for ponder")
    parser.add_argument("--llama-bench", action="append", required=True, metavar="[NAME=]COMMAND")
    parser.add_argument("--gguf", required=True, help="the same weights for llama-bench")
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--generate", type=int, default=64)
    parser.add_argument("-d", "--depth", type=int, default=0)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--repeat", type=int, default=2, help="repetitions inside one run")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each program, alternating")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    args = parser.parse_args()

    programs = [("ponder", run_ponder, shlex.split(args.ponder))]
    for i, text in enumerate(args.llama_bench):
        name, separator, command = text.partition("=")
        if not separator or " " in name or "/" in name:
            name, command = ("llama-bench" if i == 0 else f"llama-bench-{i + 1}"), text
        programs.append((name, run_llama_bench, shlex.split(command)))

    samples = {name: {} for name, _, _ in programs}
    for turn in range(args.rounds):
        for name, runner, command in programs:
            for part, values in runner(command, args).items():
                samples[name].setdefault(part, []).extend(values)
                print(f"round {turn + 1}/{args.rounds}  {name:16} {part:8} "
                      + " ".join(f"{v:.2f}" for v in values), file=sys.stderr)

    report = {"prompt": args.prompt, "generate": args.generate, "depth": args.depth,
              "threads": args.threads, "rounds": args.rounds, "programs": {}, "ratios": {}}
    for name, parts in samples.items():
        report["programs"][name] = {
            part: {"median": statistics.median(v), "min": min(v), "max": max(v), "samples": v}
            for part, v in parts.items()}
    for name in list(samples)[1:]:
        report["ratios"][f"ponder/{name}"] = {
            part: report["programs"]["ponder"][part]["median"] / figures["median"]
            for part, figures in report["programs"][name].items()
            if part in report["programs"]["ponder"]}

    print(f"{'tokens/s':24} {'median':>10} {'min':>10} {'max':>10}")
    for name, parts in report["programs"].items():
        for part, f in parts.items():
            print(f"{name + ' ' + part:24} {f['median']:10.2f} {f['min']:10.2f} {f['max']:10.2f}")
    for pair, parts in report["ratios"].items():
        print(f"{pair}: " + ", ".join(f"{part} {ratio:.2f}x" for part, ratio in parts.items()))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()

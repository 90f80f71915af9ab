#!/usr/bin/env python3
"""Measures DeepSeek-R1's layers in their true shapes and says what the whole model would do.

    bench/kernels/r1.py build/release/bench/kernels/bench_kernels            # docs/kernels/r1.md's figures
    bench/kernels/r1.py BENCH --bandwidth 400 --bf16 6000 --int8 12000       # another machine: GB/s, GFLOP/s

Takes under eight minutes and, with --experts 256, 14 GB of memory. Rounds alternate, medians count.
"""

import argparse
import json
import statistics
import subprocess

HIDDEN, WIDTH, EXPERTS, CHOSEN = 7168, 2048, 256, 8
LAYERS, DENSE, DENSE_WIDTH, VOCABULARY = 61, 3, 18432, 129280
HEADS, NOPE, ROPE, VALUE, RANK, QUERY_RANK = 128, 128, 64, 128, 512, 1536

# Weights of one layer's attention, of one expert, and of the rest.
ATTENTION = (HIDDEN * (QUERY_RANK + RANK + ROPE) + QUERY_RANK * HEADS * (NOPE + ROPE)
             + HEADS * (NOPE + VALUE) * RANK + HEADS * VALUE * HIDDEN)
EXPERT = 3 * HIDDEN * WIDTH
MIXTURE = (CHOSEN + 1) * EXPERT + EXPERTS * HIDDEN  # of one token
ACTIVE = (LAYERS * ATTENTION + DENSE * 3 * HIDDEN * DENSE_WIDTH + (LAYERS - DENSE) * MIXTURE
          + HIDDEN * VOCABULARY)
BYTES = {"f8": 1.0, "q4_k": 144 / 256}  # of one weight, but for scales of f8


def run(program, threads, experts, names, seconds):
    command = [program, f"--pool_threads={threads}", f"--r1_experts={experts}",
               f"--benchmark_filter={'|'.join('^' + n for n in names)}", "--benchmark_format=json",
               f"--benchmark_min_time={seconds}"]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return {b["name"].replace("/real_time", ""): b for b in json.loads(out.stdout)["benchmarks"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="bench_kernels")
    parser.add_argument("-t", "--threads", type=int, default=4)
    parser.add_argument("--experts", type=int, default=256,
                        help="held in memory; with fewer, fewer rows prefill, as many per expert")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--bandwidth", type=float, help="GB/s of the machine to estimate for")
    parser.add_argument("--bf16", type=float, help="its GFLOP/s in bf16")
    parser.add_argument("--int8", type=float, help="its GFLOP/s in int8")
    parser.add_argument("--json", help="also write all figures to this file")
    args = parser.parse_args()

    decode = ["read_bandwidth", "r1_mixture/{}/rows:1/", "r1_attention/{}/rows:1/"]
    prefill = ["onednn_matmul/(bf16|s8)/M:512/N:(4096/K:7168|7168/K:16384)",
               "r1_mixture/{}/rows:512/", "r1_attention/{}/rows:512/"]
    rounds = []
    for _ in range(args.rounds):
        merged = {}
        for kind in BYTES:  # one after the other: both together may not fit
            found = run(args.program, args.threads, args.experts,
                        [n.format(kind) for n in decode + prefill], args.seconds)
            for name, b in found.items():
                merged.setdefault(name, []).append(b)
        rounds.append(merged)

    def median(name, counter):
        values = [b[counter] for r in rounds for n, found in r.items() if n == name for b in found
                  if counter in b]
        return statistics.median(values) if values else 0

    bandwidth = median("read_bandwidth", "bytes_per_second")
    names = {n for r in rounds for n in r}
    best = {t: max(median(n, "flop/s") for n in names if n.startswith(f"onednn_matmul/{t}/"))
            for t in ("bf16", "s8")}
    # 0 where oneDNN has only its reference, as for both without AVX-512 or AVX-VNNI.
    print(f"read bandwidth {bandwidth / 1e9:.1f} GB/s; oneDNN's best at 512 rows: bf16 "
          f"{best['bf16'] / 1e9:.0f} GFLOP/s, int8 {best['s8'] / 1e9:.0f}")
    figures = {"bandwidth": bandwidth, "onednn": best}
    for kind, dense in (("f8", "bf16"), ("q4_k", "s8")):
        row = {}
        for part in ("r1_mixture", "r1_attention"):
            one = f"{part}/{kind}/rows:1" + ("/depth:1024" if part == "r1_attention" else "")
            many = f"{part}/{kind}/rows:512" + ("/depth:0" if part == "r1_attention" else "")
            row[part] = (median(one, "weight_bytes/s") / bandwidth,
                         median(many, "flop/s") / best[dense] if best[dense] else 0)
            share = f" = {row[part][1]:4.0%} of oneDNN's {dense}" if best[dense] else ""
            print(f"{kind:5} {part[3:]:9} decode {median(one, 'weight_bytes/s') / 1e9:6.1f} GB/s = "
                  f"{row[part][0]:4.0%} of bandwidth    prefill 512 "
                  f"{median(many, 'flop/s') / 1e9:5.0f} GFLOP/s{share}")
        figures[kind] = row

        # The whole model, as docs/kernels/r1.md adds it up: attention and mixture at their own
        # shares, dense layers and the head at the attention's.
        b = args.bandwidth * 1e9 if args.bandwidth else bandwidth
        given = args.bf16 if dense == "bf16" else args.int8
        f = given * 1e9 if given else best[dense]
        mixture = (LAYERS - DENSE) * MIXTURE
        rest = ACTIVE - mixture
        mix, attend = row["r1_mixture"], row["r1_attention"]
        token_s = BYTES[kind] / b * (mixture / mix[0] + rest / attend[0])
        if not best[dense]:
            print(f"{kind:5} whole model at {b / 1e9:.0f} GB/s: decode {1 / token_s:.2f} tokens/s")
            continue
        compute_s = 2 / f * (mixture / mix[1] + rest / attend[1])
        # A prompt of 512 reads nearly all experts once: 1 - (1 - 8/256)^512 of them.
        everything = rest + (LAYERS - DENSE) * (EXPERTS + 1) * EXPERT
        read_s = BYTES[kind] * everything / b / 512
        print(f"{kind:5} whole model at {b / 1e9:.0f} GB/s and {f / 1e9:.0f} GFLOP/s: decode "
              f"{1 / token_s:.2f} tokens/s, prefill of 512 {1 / max(compute_s, read_s):.1f} tokens/s "
              f"({'computing' if compute_s > read_s else 'reading'} is the limit)")
        figures[kind]["decode"], figures[kind]["prefill"] = 1 / token_s, 1 / max(compute_s, read_s)
    print(f"active weights per token {ACTIVE / 1e9:.1f}e9")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(figures, out, indent=1)


if __name__ == "__main__":
    main()

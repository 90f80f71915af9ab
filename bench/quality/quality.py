#!/usr/bin/env python3
"""What quantisation costs: perplexity of a model in each type, ours and a peer's, and its answers.

Quantises a model to each type with `ponder quantize`, then for each file: `ponder perplexity`
against the unquantised file (perplexity, KL divergence, how often the likeliest token is the same),
the peer's perplexity of the same file and text, and `ponder eval countdown`. Prints a Markdown table.

  bench/quality/quality.py --ponder build/release/tools/ponder
  ... --peer 'llama-ppl {model} {text} {window} 2'    a command that prints JSON with "perplexity"
  ... --work DIR --peer-work DIR                      the same folder as the peer sees it

Without --text the text is what the model itself writes when it is asked to think, so that the shipped
model reads something of its own kind.
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys

TYPES = ("q8_0 q6_k q5_k_m q5_k_s q5_1 q5_0 q4_k_m q4_k_s q4_1 q4_0 iq4_nl iq4_xs q3_k_m q2_k").split()


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def own_text(args, path):
    log = path.with_suffix(".log")
    run([args.ponder, "eval", "countdown", args.model, "-n", "400", "--seed", "11",
         "--temperature", "1", "--log", log])
    with open(log) as lines, open(path, "w") as text:
        for line in lines:
            puzzle = json.loads(line)
            text.write(puzzle["thought"] + puzzle["answer"] + "\n")


def measure(args, work, name, text, base):
    file = work / f"{name}.gguf"
    ours = json.loads(run([args.ponder, "perplexity", file, text, "--window", str(args.window),
                           "--json"] + (["--against", base] if base else [])))
    row = {"type": name, "bytes": file.stat().st_size, "perplexity": ours["perplexity"]}
    if base:
        row.update((key, ours["against"][key]) for key in ("kl_divergence", "same_top"))
    if args.peer:
        seen = pathlib.PurePosixPath(args.peer_work or work)
        command = args.peer.format(model=seen / file.name, text=seen / text.name, window=args.window)
        row["peer"] = json.loads(run(shlex.split(command)))["perplexity"]
    if args.puzzles > 0:
        row["solved"] = json.loads(run([args.ponder, "eval", "countdown", file, "--greedy", "-n",
                                        str(args.puzzles), "--json"]))["rate"]
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ponder", required=True)
    parser.add_argument("--model", default="models/countdown")
    parser.add_argument("--types", nargs="*", default=TYPES)
    parser.add_argument("--text")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--puzzles", type=int, default=200, help="of ponder eval; 0: none")
    parser.add_argument("--peer")
    parser.add_argument("--work", default="build/quality")
    parser.add_argument("--peer-work")
    parser.add_argument("--json")
    args = parser.parse_args()

    work = pathlib.Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    text = work / "text.txt"
    if args.text:
        text.write_bytes(pathlib.Path(args.text).read_bytes())
    else:
        own_text(args, text)
    rows = []
    for name in ["bf16", *args.types]:
        run([args.ponder, "quantize", args.model, work / f"{name}.gguf", "--type", name])
        rows.append(measure(args, work, name, text, work / "bf16.gguf" if rows else None))
        print(name, file=sys.stderr)
    print("| type | MB | perplexity | peer | ratio | KL | same top | solved |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        peer = r.get("peer")
        cells = [r["type"], f"{r['bytes'] / 1e6:.2f}", f"{r['perplexity']:.4f}",
                 f"{peer:.4f}" if peer else "", f"{r['perplexity'] / peer:.4f}" if peer else "",
                 f"{r['kl_divergence']:.5f}" if "kl_divergence" in r else "",
                 f"{100 * r['same_top']:.2f} %" if "same_top" in r else "",
                 f"{r['solved']:.3f}" if "solved" in r else ""]
        print("| " + " | ".join(cells) + " |")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

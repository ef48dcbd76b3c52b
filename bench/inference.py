"""A model's prefill and decoding beside llama.cpp's, on the same file, alternating, in one run.

    python3 bench/inference.py MODEL.gguf [MODEL.gguf …] --llama-bench PATH [--ik-llama-bench PATH]
        [--taoye target/release/taoye] [--threads 2] [--depths 0,4096] [--prefill 512] [--decode 128] [--rounds 3]
        [--out FILE.json]

Each round runs `taoye bench prefill|decode --json` and llama.cpp's `llama-bench` once for every point, with flash attention
on and off, and ik_llama.cpp's where it is given, with and without repacked weights (it has no depth); the better setting
of each counts. Ratios are of medians. What others used of the processor meanwhile is
noted with each figure, for what is measured on a busy machine is worth little.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time


def main():
    arguments = parse()
    rows = []
    for model in arguments.models:
        for depth in map(int, arguments.depths.split(",")):
            for kind in ("prefill", "decode"):
                rows.append(measure(model, kind, depth, arguments))
                print(line(rows[-1]), file=sys.stderr, flush=True)
    if arguments.out:
        pathlib.Path(arguments.out).write_text(json.dumps(rows, indent=1) + "\n")
    head = ["model", "", "depth", "taoye tokens/s", "share of the limit", "llama.cpp tokens/s", "ratio"]
    head += ["ik_llama.cpp tokens/s", "ratio"] if arguments.ik_llama_bench else []
    head.append("others' cores")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(line(row))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", help="GGUF files")
    parser.add_argument("--llama-bench", required=True, help="llama.cpp's llama-bench")
    parser.add_argument("--ik-llama-bench", help="ik_llama.cpp's llama-bench")
    parser.add_argument("--taoye", default="target/release/taoye")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depths", default="0", help="tokens that the context holds already, by commas")
    parser.add_argument("--prefill", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--decode", type=int, default=128, help="tokens to generate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="all figures as JSON")
    return parser.parse_args()


def measure(model, kind, depth, arguments):
    tokens = arguments.prefill if kind == "prefill" else arguments.decode
    threads = str(arguments.threads)
    ours = [
        arguments.taoye, "bench", kind, model, "--tokens", str(tokens), "--depth", str(depth), "--threads", threads,
        "--rounds", "1", "--json",
    ]
    theirs = [
        "-m", model, "-t", threads, "-r", "1", "-o", "json",
        "-p", str(tokens if kind == "prefill" else 0), "-n", str(tokens if kind == "decode" else 0),
    ]
    peers = {"llama": [[arguments.llama_bench, *theirs, "-d", str(depth), "-fa", flash] for flash in "10"]}
    if arguments.ik_llama_bench and depth == 0:
        peers["ik"] = [[arguments.ik_llama_bench, *theirs, "-fa", "1", "-rtr", repack] for repack in "10"]
    row = {"model": pathlib.Path(model).stem, "kind": kind, "depth": depth, "tokens": tokens, "taoye": []}
    row |= {peer: {" ".join(command[-2:]): [] for command in commands} for peer, commands in peers.items()}
    for _ in range(arguments.rounds):
        row["taoye"].append(run(ours, lambda text: json.loads(text.strip().splitlines()[-1])))
        for peer, commands in peers.items():
            for command in commands:
                found = run(command, lambda text: {"tokens_per_s": json.loads(text)[0]["avg_ts"]})
                row[peer][" ".join(command[-2:])].append(found)
    return row


def run(command, parse_output):
    """What a command found, and how many cores others used meanwhile."""
    busy, begun = busy_seconds(), time.monotonic()
    before = children_seconds()
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {process.returncode}\n{process.stderr[-2000:]}")
    others = busy_seconds() - busy - (children_seconds() - before)
    return parse_output(process.stdout) | {"others_cores": max(0.0, others) / (time.monotonic() - begun)}


def children_seconds():
    times = os.times()
    return times.children_user + times.children_system


def busy_seconds():
    """Processor time that anything has used since the machine started."""
    with open("/proc/stat") as lines:
        user, nice, system, _idle, _wait, interrupt, soft, stolen = map(int, lines.readline().split()[1:9])
    return (user + nice + system + interrupt + soft + stolen) / os.sysconf("SC_CLK_TCK")


def line(row):
    median = lambda runs, key: statistics.median(run[key] for run in runs)
    ours = median(row["taoye"], "tokens_per_s")
    share = 100 * median(row["taoye"], "share_of_peak")
    cells = [row["model"], f"{row['kind']} {row['tokens']}", row["depth"], f"{ours:.1f}", f"{share:.1f} %"]
    everything = [row["taoye"]]
    for peer in ("llama", "ik"):
        if peer in row:
            theirs = max(median(runs, "tokens_per_s") for runs in row[peer].values())
            cells += [f"{theirs:.1f}", f"{ours / theirs:.2f}"]
            everything += row[peer].values()
    cells.append(f"{max(run['others_cores'] for runs in everything for run in runs):.2f}")
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()

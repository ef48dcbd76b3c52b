"""Many streams at once beside llama.cpp's server, on the same file, by turns, in one run.

    python3 bench/serving.py MODEL.gguf [MODEL.gguf …] --llama-server PATH [--taoye target/release/taoye] [--threads 2]
        [--streams 16] [--prompt 256] [--answer 128] [--requests 32] [--shared 0] [--rounds 3] [--out FILE.json]

A round starts each server, asks once to warm it, and sends it the same prompts (token ids) with `taoye bench serve`. llama.cpp's
server runs with a place for each stream, continuous batching and its prompt cache, with flash attention on and off;
the better one counts. Ratios are of medians. With --shared N all prompts begin with the same N tokens.
"""

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time
import urllib.request


def main():
    arguments = parse()
    rows = []
    for model in arguments.models:
        rows.append(measure(model, arguments))
        print(line(rows[-1]), file=sys.stderr, flush=True)
    if arguments.out:
        pathlib.Path(arguments.out).write_text(json.dumps(rows, indent=1) + "\n")
    print("| model | tokens/s | llama-server | ratio | first token p95, ms | llama-server | between tokens p95, ms | llama-server |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(line(row))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", help="GGUF files")
    parser.add_argument("--llama-server", required=True, help="llama.cpp's llama-server")
    parser.add_argument("--taoye", default="target/release/taoye")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=256, help="tokens of each prompt")
    parser.add_argument("--answer", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--shared", type=int, default=0, help="tokens that all prompts begin with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="all figures as JSON")
    return parser.parse_args()


def measure(model, arguments):
    each = arguments.prompt + arguments.answer + 16
    threads = str(arguments.threads)
    theirs = [
        arguments.llama_server, "-m", model, "-t", threads, "-tb", threads, "-np", str(arguments.streams),
        "-c", str(each * arguments.streams), "--no-webui", "-b", "2048", "-ub", "512",
    ]
    sides = {
        "taoye": [arguments.taoye, "serve", model, "--threads", threads, "--context", str(each)],
        "llama": theirs + ["-fa", "on"],
        "llama-plain": theirs + ["-fa", "off"],
    }
    taken = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side, command in sides.items():
            taken[side].append(ask(command, arguments))
    return {"model": pathlib.Path(model).stem, "rounds": taken} | summary(taken)


def ask(command, arguments):
    """What `taoye bench serve` measures of the server that this command starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        command + ["--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait(url, server)
        bench = [arguments.taoye, "bench", "serve", url, "--json", "--prompt-tokens", str(arguments.prompt)]
        run(bench + ["--streams", "1", "--requests", "1", "--max-tokens", "2", "--seed", "1"])
        return run(
            bench
            + ["--streams", str(arguments.streams), "--requests", str(arguments.requests)]
            + ["--max-tokens", str(arguments.answer), "--shared-tokens", str(arguments.shared)]
        )
    finally:
        server.terminate()
        server.wait()


def wait(url, server):
    for _ in range(1200):
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}: {' '.join(server.args)}")
        try:
            with urllib.request.urlopen(url + "/health") as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit("the server does not come up")


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(taken):
    median = lambda side, key: statistics.median(one[key] for one in taken[side])
    best = max(("llama", "llama-plain"), key=lambda side: median(side, "tokens_per_s"))
    keys = ("tokens_per_s", "ttft_ms_p95", "itl_ms_p95")
    return {
        "flash": best == "llama",
        "taoye": {key: median("taoye", key) for key in keys},
        "llama": {key: median(best, key) for key in keys},
    }


def line(row):
    ours, theirs = row["taoye"], row["llama"]
    cells = [row["model"], f"{ours['tokens_per_s']:.1f}", f"{theirs['tokens_per_s']:.1f}"]
    cells.append(f"{ours['tokens_per_s'] / theirs['tokens_per_s']:.2f}")
    for key in ("ttft_ms_p95", "itl_ms_p95"):
        cells += [f"{ours[key]:.0f}", f"{theirs[key]:.0f}"]
    return "| " + " | ".join(cells) + " |"


main()

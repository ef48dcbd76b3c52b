"""A model's perplexity here, in llama.cpp and in transformers with the file dequantised to f32; and how far the first two's
distributions lie from the last one's.

    python3 bench/perplexity.py MODEL.gguf TEXT [TEXT …] --llama-perplexity PATH [--taoye target/release/taoye]
        [--windows 200] [--window 512] [--threads 2] [--divergence] [--without-llama] [--without-transformers]

All three score the second half of the same windows of the same ids (llama-perplexity's definition; each window's first id is
replaced by the one that begins a text). Each line is printed as soon as it is known. `--divergence` has all three write their
distributions down as llama-perplexity's `--kl-divergence-base` does (2 bytes for each token and entry of the vocabulary) and
adds how far both programs' lie from transformers': mean KL divergence and |log-probability difference| in nats. Versions:
fixtures/requirements.txt.
"""

import argparse
import json
import math
import os
import pathlib
import re
import struct
import subprocess
import tempfile
import time

import numpy as np


def main():
    arguments = parse()
    for text in arguments.texts:
        for one in measures(text, arguments):
            print(json.dumps({"model": pathlib.Path(arguments.model).name, "text": pathlib.Path(text).name} | one), flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--taoye", default="target/release/taoye")
    parser.add_argument("--llama-perplexity")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kv-type", default="f16", help="of taoye; llama.cpp's is f16")
    parser.add_argument("--divergence", action="store_true")
    parser.add_argument("--without-transformers", action="store_true")
    arguments = parser.parse_args()
    assert arguments.divergence <= (not arguments.without_transformers)
    return arguments


def measures(text, arguments):
    with tempfile.TemporaryDirectory() as folder:
        base = os.path.join(folder, "base") if arguments.divergence else None
        if not arguments.without_transformers:
            yield transformers_perplexity(text, base, arguments)
        yield ours(text, base, arguments)
        if arguments.llama_perplexity:
            yield llamas(text, base, arguments)


def ours(text, base, arguments):
    command = [
        arguments.taoye, "eval", "perplexity", arguments.model, text, "--window", str(arguments.window), "--windows",
        str(arguments.windows), "--kv-type", arguments.kv_type, "--threads", str(arguments.threads), "--json",
    ]
    command += ["--save-base", base + ".ours"] if base else []
    began = time.monotonic()
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])["perplexity"]
    result = {"program": "taoye", "seconds": round(time.monotonic() - began)}
    return result | {name: found[name] for name in ("perplexity", "standard_error", "tokens")} | beside(base, ".ours")


def llamas(text, base, arguments):
    command = [
        arguments.llama_perplexity, "-m", arguments.model, "-f", text, "-c", str(arguments.window), "-b", str(arguments.window),
        "--chunks", str(arguments.windows), "-t", str(arguments.threads), "-fa", "on",
    ]
    command += ["--kl-divergence-base", base + ".llama"] if base else []
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    told = done.stdout + done.stderr
    match = re.search(r"Final estimate: PPL = ([0-9.]+) \+/- ([0-9.]+)", told)
    if match is None:
        raise SystemExit(told[-2000:])
    found = {"perplexity": float(match[1]), "standard_error": float(match[2])}
    return {"program": "llama.cpp", "seconds": round(time.monotonic() - began)} | found | beside(base, ".llama")


def beside(base, ending):
    """How far one file's distributions lie from transformers'; nothing where there are none."""
    if not base:
        return {}
    (followers, theirs), (other_followers, own) = distributions(base), distributions(base + ending)
    assert followers == other_followers, "other ids"
    divergences, differences, same = [], [], 0
    for follower, true, found in zip(followers, theirs, own, strict=True):
        divergences.append(float((np.exp(true) * (true - found)).sum()))
        differences.append(abs(float(true[follower] - found[follower])))
        same += int(true.argmax() == found.argmax())
    os.unlink(base + ending)
    return {
        "kl_divergence": float(np.mean(divergences)), "kl_divergence_p99": float(np.quantile(divergences, 0.99)),
        "log_prob_difference": float(np.mean(differences)), "same_top": same / len(differences),
    }


def distributions(path):
    """The ids that follow, and a generator of the log-probabilities of all entries."""
    with open(path, "rb") as file:
        assert file.read(8) == b"_logits_"
        window, vocabulary, windows = struct.unpack("<3I", file.read(12))
        ids = np.frombuffer(file.read(4 * window * windows), "<u4").reshape(windows, window)
        start = file.tell()
    followers = ids[:, window // 2 + 1:].reshape(-1).tolist()

    def rows():
        size = 2 * (4 + vocabulary + vocabulary % 2)
        with open(path, "rb") as file:
            file.seek(start)
            for _ in followers:
                row = file.read(size)
                scale, least = struct.unpack("<2f", row[:8])
                yield least + scale * np.frombuffer(row, "<u2", vocabulary, 8).astype(np.float64)

    return followers, rows()


def windows_of(text, arguments):
    """Windows of ids, and the id that begins a text."""
    encoded = subprocess.run(
        [arguments.taoye, "tokenizer", "encode", arguments.model, "--json"], check=True, stdin=open(text, "rb"), capture_output=True,
    )
    ids = json.loads(encoded.stdout)["ids"]
    from gguf import GGUFReader

    fields = GGUFReader(arguments.model).fields
    scalar = lambda name: fields[name].contents() if name in fields else None
    kind = scalar("tokenizer.ggml.model")
    adds = scalar("tokenizer.ggml.add_bos_token")
    begins = scalar("tokenizer.ggml.bos_token_id") if (kind == "llama" if adds is None else adds) else None
    if begins is not None:
        ids = [begins] + ids
    count = min(len(ids) // arguments.window, arguments.windows)
    return [ids[index * arguments.window:(index + 1) * arguments.window] for index in range(count)], begins


def transformers_perplexity(text, base, arguments):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(arguments.threads)
    windows, begins = windows_of(text, arguments)
    path = pathlib.Path(arguments.model).resolve()
    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()
    first, nats, count, began = arguments.window // 2, 0.0, 0, time.monotonic()
    file = open(base, "wb") if base else None
    for index, window in enumerate(windows):
        with torch.no_grad():
            fed = torch.tensor([[window[0] if begins is None else begins] + window[1:-1]])
            logits = model(fed, use_cache=False).logits[0, first:].float()
        if file and not index:
            file.write(b"_logits_" + struct.pack("<3I", arguments.window, logits.shape[1], len(windows)))
            file.write(b"".join(struct.pack(f"<{arguments.window}I", *one) for one in windows))
        scored = torch.log_softmax(logits, -1)
        followers = torch.tensor(window[first + 1:])
        nats -= float(scored.gather(1, followers[:, None]).double().sum())
        count += len(followers)
        if file:
            file.write(rounded(logits, scored))
    if file:
        file.close()
    return {"program": "transformers, f32", "perplexity": math.exp(nats / count), "tokens": count,
            "seconds": round(time.monotonic() - began)}


def rounded(logits, scored):
    """Rows as llama-perplexity's base file has them: scale and least log-probability in f32, then 16 bits an entry."""
    logits, scored = logits.numpy(), scored.numpy()
    least = np.maximum(logits.min(1), logits.max(1) - 16)
    scale = (logits.max(1) - least) / 65535
    values = np.rint(np.maximum(logits - least[:, None], 0) / scale[:, None]).astype("<u2")
    offset = scored[:, 0] - logits[:, 0]
    head = np.stack([scale, least + offset], 1).astype("<f4").view("<u2")
    rows = np.concatenate([head, values], 1)
    return np.pad(rows, ((0, 0), (0, values.shape[1] % 2))).tobytes()


if __name__ == "__main__":
    main()

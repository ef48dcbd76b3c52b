"""Hugging Face tokenizers, tiktoken and splintr (where installed) on one text, beside `taoye bench tokenizer`; prints one JSON object on the last line.

    pip install tokenizers==0.23.3 tiktoken==0.14.0 splintr-rs==0.22.0
    python bench/tokenizer.py TEXT [--vocab 8192] [--ours FOLDER] [--repeats 3] [--no-training]

TEXT is cut into documents of about 20,000 bytes at line ends. With --ours FOLDER (what `taoye tokenizer train` wrote) the
peers encode with our merges, so that all count the same tokens; otherwise with those that Hugging Face learns. Training and
encoding use our pattern; where splintr refuses the file, the report says why. HF reads the text document by document from memory, as ours does.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import time

os.environ.setdefault("RAYON_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import tiktoken  # noqa: E402
import tokenizers  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

# token::pattern(1)
PATTERN = (
    r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])(?![\p{L}\p{M}])|\p{Han}+"
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^\p{Han}]]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DOCUMENT_BYTES = 20_000


def documents_of(path: pathlib.Path) -> list[str]:
    documents, lines, size = [], [], 0
    for line in path.read_bytes().decode("utf-8", errors="replace").splitlines(keepends=True):
        lines.append(line)
        size += len(line.encode())
        if size >= DOCUMENT_BYTES:
            documents.append("".join(lines))
            lines, size = [], 0
    if lines:
        documents.append("".join(lines))
    return documents


def fresh() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(documents: list[str], vocab: int) -> tuple[Tokenizer, float, float]:
    tokenizer = fresh()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    start, cpu = time.perf_counter(), time.process_time()
    tokenizer.train_from_iterator(documents, trainer, length=len(documents))
    return tokenizer, time.perf_counter() - start, time.process_time() - cpu


def byte_of_letter() -> dict[str, int]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def tiktoken_of(tokenizer: Tokenizer) -> tiktoken.Encoding:
    letters = byte_of_letter()
    ranks = {bytes([byte]): byte for byte in range(256)}
    for left, right in json.loads(tokenizer.to_str())["model"]["merges"]:
        ranks[bytes(letters[letter] for letter in left + right)] = len(ranks)
    return tiktoken.Encoding("bench", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})


def rate(work, size_bytes: int, repeats: int) -> dict:
    seconds, tokens, cpu = [], 0, time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        tokens = work()
        seconds.append(time.perf_counter() - start)
    return {
        "mb_per_s": round(size_bytes / 1e6 / statistics.median(seconds), 2),
        "mb_per_s_best": round(size_bytes / 1e6 / min(seconds), 2),
        "mb_per_cpu_s": round(size_bytes * repeats / 1e6 / (time.process_time() - cpu), 2),
        "tokens": tokens,
    }


def splintr_rates(tokenizer: Tokenizer, sample: list[str], size: int, repeats: int) -> dict:
    try:
        import splintr

        other = splintr.from_json_bytes(tokenizer.to_str().encode())
        one = rate(lambda: sum(len(other.encode_raw(d)) for d in sample), size, repeats)
        two = rate(lambda: sum(map(len, other.encode_batch(sample))), size, repeats)
        return {"splintr_encode_1": one, "splintr_encode_2": two}
    except (ImportError, ValueError) as error:
        return {"splintr": str(error)[:200]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--ours", type=pathlib.Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--encode-mb", type=float, default=20.0, help="how much of the text to encode")
    options = parser.parse_args()

    documents = documents_of(options.text)
    report: dict = {
        "text": str(options.text), "vocab": options.vocab, "documents": len(documents),
        "text_mb": round(sum(len(document.encode()) for document in documents) / 1e6, 2),
        "tokenizers": tokenizers.__version__, "tiktoken": tiktoken.__version__,
    }
    tokenizer = None
    if not options.no_training:
        tokenizer, seconds, cpu_seconds = train(documents, options.vocab)
        report |= {"hf_train_s": round(seconds, 2), "hf_train_cpu_s": round(cpu_seconds, 2)}
    if options.ours:
        tokenizer = Tokenizer.from_file(str(options.ours / "tokenizer.json"))
    if tokenizer is None:
        parser.error("nothing to encode with: give --ours or leave out --no-training")

    sample, size = [], 0
    for document in documents:
        if size >= options.encode_mb * 1e6:
            break
        sample.append(document)
        size += len(document.encode())
    encoding = tiktoken_of(tokenizer)
    repeats = options.repeats
    report["hf_encode_1"] = rate(lambda: sum(len(tokenizer.encode(d).ids) for d in sample), size, repeats)
    report["hf_encode_2"] = rate(
        lambda: sum(len(encoded) for encoded in tokenizer.encode_batch_fast(sample)), size, repeats
    )
    report["tiktoken_encode_1"] = rate(lambda: sum(len(encoding.encode_ordinary(d)) for d in sample), size, repeats)
    report["tiktoken_encode_2"] = rate(
        lambda: sum(map(len, encoding.encode_ordinary_batch(sample, num_threads=2))), size, repeats
    )
    report |= splintr_rates(tokenizer, sample, size, repeats)
    report["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

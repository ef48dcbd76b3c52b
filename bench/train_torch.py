"""PyTorch's speed at training the shapes that `taoye bench train` trains: one JSON line.

    python bench/train_torch.py --shape S|M --mode eager|compile|max-autotune [--threads 2] [--warm-up N] [--steps N]

A step is what ours is: f32 throughout, forward, cross-entropy over the whole vocabulary, backward, AdamW (fused),
on a new random batch. The model is written for speed: fused query/key/value and gate/up projections, PyTorch's
own attention kernel, RMSNorm operator. The allocator and the OpenMP runtime are chosen from outside (LD_PRELOAD,
MALLOC_CONF, GLIBC_TUNABLES); train.py knows the settings.

Printed: tokens_per_s (median), tokens_per_s_best, tokens_per_cpu_s, step_s (each), peak_rss_bytes, loss, settings and machine.
"""

import argparse
import json
import os
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

# ffn is 8/3 of the width, rounded up to a multiple of 16.
SHAPES = {
    "S": dict(layers=6, width=256, heads=4, ffn=688, vocabulary=8192, context=256, batch=16),
    "M": dict(layers=12, width=768, heads=12, ffn=2048, vocabulary=32000, context=512, batch=4),
}
NORM_EPS = 1e-5
ROTARY_THETA = 10000.0


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    shape = SHAPES[arguments.shape]
    model = Decoder(shape)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    step_function = compiled(model, arguments.mode)

    step_s, step_cpu_s, loss = [], [], 0.0
    for _ in range(arguments.warm_up + arguments.steps):
        tokens = torch.randint(0, shape["vocabulary"], (shape["batch"], shape["context"] + 1))
        start, start_cpu = time.perf_counter(), time.process_time()
        mean_loss = step_function(tokens[:, :-1], tokens[:, 1:])
        mean_loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step_s.append(time.perf_counter() - start)
        step_cpu_s.append(time.process_time() - start_cpu)
        loss = mean_loss.item()
    print(json.dumps(report(arguments, shape, model, (step_s, step_cpu_s), loss)))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--mode", choices=["eager", "compile", "max-autotune"], required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--steps", type=int, default=9)
    return parser.parse_args()


def compiled(model, mode):
    if mode == "eager":
        return model
    if mode == "compile":
        return torch.compile(model, dynamic=False)
    return torch.compile(model, dynamic=False, mode="max-autotune")


def report(arguments, shape, model, times, loss):
    step_s, step_cpu_s = times
    timed = step_s[arguments.warm_up:]
    tokens = shape["batch"] * shape["context"]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    in_products = parameters - model.embedding.weight.numel()
    median = statistics.median(timed)
    return {
        "tokens_per_s": round(tokens / median, 1),
        "tokens_per_s_best": round(tokens / min(timed), 1),
        # On one thread this is what a busy machine leaves intact; with more, waiting threads count as busy.
        "tokens_per_cpu_s": round(tokens / statistics.median(step_cpu_s[arguments.warm_up:]), 1),
        # Six operations a token and parameter of a matrix product; attention comes on top and is left out.
        "gflops": round(6 * in_products * tokens / median / 1e9, 1),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "parameters": parameters,
        "loss": round(loss, 4),
        "shape": arguments.shape,
        "mode": arguments.mode,
        "threads": arguments.threads,
        "allocator": allocator(),
        "openmp": "intel" if "libiomp5" in loaded_libraries() else "gnu",
        "mkl_as_on_intel": "libmkl_shim" in loaded_libraries(),
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "first_step_s": round(step_s[0], 2),
        "step_s": [round(seconds, 4) for seconds in timed],
    }


def loaded_libraries():
    with open("/proc/self/maps") as maps:
        return maps.read()


def allocator():
    """Which malloc this process really has, and what it was told."""
    libraries = loaded_libraries()
    for name in ("jemalloc", "tcmalloc", "mimalloc"):
        if f"lib{name}" in libraries:
            return " ".join(filter(None, [name, os.environ.get("MALLOC_CONF")]))
    told = [f"{key}={value}" for key, value in os.environ.items() if key.startswith("MALLOC_") or key == "GLIBC_TUNABLES"]
    return " ".join(["glibc", *sorted(told)])


def cpu_name():
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown"


class Decoder(nn.Module):
    """Token ids and targets (batch, time) to the mean loss."""

    def __init__(self, shape):
        super().__init__()
        width, vocabulary = shape["width"], shape["vocabulary"]
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape["layers"]))
        self.norm = nn.Parameter(torch.ones(width))
        self.head = nn.Linear(width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, 0.0, 0.02)
        half = width // shape["heads"] // 2
        angles = torch.outer(torch.arange(shape["context"]), ROTARY_THETA ** (-torch.arange(half) / half))
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())

    def forward(self, ids, targets):
        x = self.embedding(ids)  # (batch, time, width)
        for layer in self.layers:
            x = layer(x, self.cosine, self.sine)
        logits = self.head(F.rms_norm(x, x.shape[-1:], self.norm, NORM_EPS))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Layer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        width, ffn = shape["width"], shape["ffn"]
        self.heads = shape["heads"]
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * ffn, bias=False)
        self.down = nn.Linear(ffn, width, bias=False)
        self.attention_norm = nn.Parameter(torch.ones(width))
        self.mlp_norm = nn.Parameter(torch.ones(width))

    def forward(self, x, cosine, sine):
        batch, time, width = x.shape
        normed = F.rms_norm(x, (width,), self.attention_norm, NORM_EPS)
        # (3, batch, heads, time, head_dim)
        fused = self.query_key_value(normed).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = fused.unbind(0)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).reshape(batch, time, width))
        normed = F.rms_norm(x, (width,), self.mlp_norm, NORM_EPS)
        gate, up = self.gate_up(normed).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def rotate(x, cosine, sine):
    """Rotary embedding with the halves split; x is (batch, heads, time, head_dim)."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


if __name__ == "__main__":
    main()

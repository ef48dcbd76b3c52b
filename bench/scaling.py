"""What more time buys: bits per byte over model sizes and budgets, with a fitted law.

    python3 bench/scaling.py TRIALS.jsonl

Each line of the file is one training run as a JSON object with `bits` (bits per byte on held-out text), `tokens` (seen in
training), `matmul` (parameters that a token is multiplied with), `flops` (spent, the optimiser's included), `budget`
(asked for, in floating-point operations) and `shape` (a name such as "3x128"). Lines without `shape` are passed over.

Prints the table of shapes by budgets and the fit of

    bits = E + A / matmul^alpha + B / tokens^beta

(Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", equation 2) by least squares in the logarithm of
bits: for each pair of exponents on a grid E, A and B follow from linear equations, weighted by 1 / bits². Then, for each budget, the best
size by the fit. Needs the standard library only.
"""

import json
import math
import sys

EXPONENTS = [step / 100 for step in range(10, 101, 2)]
# Operations for a token and a parameter of a matrix product, attention and optimiser included, are taken from the runs.
FORWARD_AND_BACKWARD = 6.0


def main():
    runs = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8") if line.strip()]
    runs = [run for run in runs if "shape" in run]
    if len(runs) < 5:
        sys.exit(f"{sys.argv[1]} holds {len(runs)} runs with a shape; the law has five unknowns, so give at least five")
    print(table(runs))
    law = fit(runs)
    print(describe(law, runs))


def table(runs):
    """Bits per byte, a row a shape and a column a budget; several runs of one cell are averaged."""
    shapes = sorted({run["shape"] for run in runs}, key=lambda shape: matmul_of(runs, shape))
    budgets = sorted({run["budget"] for run in runs})
    lines = ["| Shape (matmul parameters) | " + " | ".join(f"{budget:.2g}" for budget in budgets) + " |"]
    lines.append("|---" * (len(budgets) + 1) + "|")
    for shape in shapes:
        cells = []
        for budget in budgets:
            bits = [run["bits"] for run in runs if run["shape"] == shape and run["budget"] == budget]
            cells.append(f"{sum(bits) / len(bits):.3f}" if bits else "")
        lines.append(f"| {shape} ({matmul_of(runs, shape) / 1e6:.2f} M) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def matmul_of(runs, shape):
    return next(run["matmul"] for run in runs if run["shape"] == shape)


def fit(runs):
    """The law (E, A, alpha, B, beta) with the least sum of squared relative errors, and that sum."""
    best = None
    for alpha in EXPONENTS:
        for beta in EXPONENTS:
            rows = [(1.0, (run["matmul"] / 1e6) ** -alpha, (run["tokens"] / 1e6) ** -beta) for run in runs]
            weights = [1.0 / run["bits"] ** 2 for run in runs]
            unknowns = least_squares(rows, [run["bits"] for run in runs], weights)
            if unknowns is None or min(unknowns) < 0.0:
                continue
            errors = [
                weight * (run["bits"] - sum(x * y for x, y in zip(unknowns, row))) ** 2
                for run, row, weight in zip(runs, rows, weights)
            ]
            if best is None or sum(errors) < best[0]:
                best = (sum(errors), unknowns[0], unknowns[1], alpha, unknowns[2], beta)
    if best is None:
        sys.exit("no law with positive terms fits these runs; add sizes and budgets that lie further apart")
    return best


def least_squares(rows, values, weights):
    """Three unknowns from the weighted normal equations; none where they are degenerate."""
    matrix = [
        [sum(w * row[i] * row[j] for row, w in zip(rows, weights)) for j in range(3)]
        + [sum(w * row[i] * value for row, value, w in zip(rows, values, weights))]
        for i in range(3)
    ]
    for i in range(3):
        pivot = max(range(i, 3), key=lambda row: abs(matrix[row][i]))
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        if abs(matrix[i][i]) < 1e-12:
            return None
        for row in range(3):
            if row != i:
                factor = matrix[row][i] / matrix[i][i]
                matrix[row] = [x - factor * y for x, y in zip(matrix[row], matrix[i])]
    return [matrix[i][3] / matrix[i][i] for i in range(3)]


def describe(law, runs):
    error, floor, a, alpha, b, beta = law
    lines = [
        f"bits = {floor:.3f} + {a:.3f} / (matmul / 1e6)^{alpha:.2f} + {b:.3f} / (tokens / 1e6)^{beta:.2f}",
        f"root mean square of the relative error: {100 * math.sqrt(error / len(runs)):.2f} % over {len(runs)} runs",
        "",
        "| Operations | Best matmul parameters | Tokens | Tokens a parameter | Bits per byte by the law |",
        "|---|---|---|---|---|",
    ]
    # Operations for a token beside 6 · matmul: attention, the optimiser.
    overhead = sum(run["flops"] / (FORWARD_AND_BACKWARD * run["matmul"] * run["tokens"]) for run in runs) / len(runs)
    budgets = sorted({run["budget"] for run in runs})
    for budget in budgets + [budgets[-1] * factor for factor in (2, 4, 12)]:
        points = []
        for step in range(-60, 121):
            matmul = 10 ** (step / 40)
            tokens = budget / 1e12 / (FORWARD_AND_BACKWARD * overhead * matmul)
            points.append((floor + a * matmul**-alpha + b * tokens**-beta, matmul, tokens))
        bits, matmul, tokens = min(points)
        lines.append(f"| {budget:.2g} | {matmul:.2f} M | {tokens:.2f} M | {tokens / matmul:.1f} | {bits:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

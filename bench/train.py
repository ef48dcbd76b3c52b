"""Training speed beside PyTorch, in one run: ours and every torch setting by turns, limits of the machine between.

    python3 bench/train.py [--shapes S,M] [--rounds 3] [--python .venv/bin/python] [--taoye target/release/taoye]

Needs only the standard library itself; `--python` is an interpreter that has torch (see README.md). Each round runs
`taoye bench train --shape X --json`, then one torch setting, then ours again, and so on, so that each torch figure
stands between two of ours. A setting's ratio is the median over rounds of ours (mean of the two neighbours) divided by
it: a machine that slows down slows both.

How busy others kept the processor meanwhile is printed; a figure taken while that was over 0.1 cores says little.
"""

import argparse
import ctypes.util
import glob
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent
RUN_SECONDS_MAX = 1800
# PyTorch's performance tuning guide, section on CPU allocators; the glibc thresholds keep freed buffers in the process.
JEMALLOC_CONF = (
    "oversize_threshold:1,background_thread:true,metadata_thp:auto,dirty_decay_ms:9000000000,muzzy_decay_ms:9000000000"
)
GLIBC_KEEPS = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "268435456",
}
# MKL asks this function of itself whether the processor is Intel's, and takes its AVX2 kernels on any other, even one
# with AVX-512. A library loaded before it that answers yes gives MKL's best; nobody gets that by installing torch.
MKL_SHIM = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"
# Parts of a setting, joined by "+": libraries to load first, and variables.
PARTS = {
    "default": ([], {}),
    "glibc-keeps": ([], GLIBC_KEEPS),
    "jemalloc": (["jemalloc"], {"MALLOC_CONF": JEMALLOC_CONF}),
    "tcmalloc": (["tcmalloc_minimal"], {}),
    "intel-openmp": (["iomp5"], {"KMP_BLOCKTIME": "1", "KMP_AFFINITY": "granularity=fine,compact,1,0"}),
    "mkl-as-on-intel": (["mkl_shim"], {}),
}
DEFAULT_SETTINGS = "default,glibc-keeps,jemalloc,tcmalloc,tcmalloc+mkl-as-on-intel"
WARM_UP_STEPS = {"S": 3, "M": 2}
TIMED_STEPS = {"S": 9, "M": 4}


def main():
    arguments = parse_arguments()
    results = []
    with tempfile.TemporaryDirectory(prefix="taoye-bench-") as folder:
        settings = torch_settings(arguments, pathlib.Path(folder))
        limits = build_limits(pathlib.Path(folder))
        for shape in arguments.shapes.split(","):
            results.append(measure(shape, settings, limits, arguments))
            print_table(results[-1])
    if arguments.out:
        pathlib.Path(arguments.out).write_text(json.dumps(results, indent=1) + "\n")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", default="S,M", help="which shapes, by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", default=str(ROOT / ".venv/bin/python"), help="an interpreter that has torch")
    parser.add_argument("--taoye", default=str(ROOT / "target/release/taoye"))
    parser.add_argument("--without-ours", action="store_true", help="measure torch alone")
    parser.add_argument("--modes", default="eager,compile", help="of eager, compile, max-autotune")
    parser.add_argument("--settings", default=DEFAULT_SETTINGS, help=f"by commas; parts joined by +: {', '.join(PARTS)}")
    parser.add_argument("--library-folder", help="where libjemalloc, libtcmalloc and libiomp5 lie, if not installed")
    parser.add_argument("--out", help="write every figure to this JSON file")
    arguments = parser.parse_args()
    if not arguments.without_ours and not shutil.which(arguments.taoye):
        sys.exit(f"{arguments.taoye} is not there; build it with `cargo build --release` or give --taoye or --without-ours")
    if not shutil.which(arguments.python):
        sys.exit(f"{arguments.python} is not there; bench/README.md says how to make it, --python names another")
    return arguments


def torch_settings(arguments, folder):
    """{label: (mode, environment)} for every mode and every setting whose libraries this machine has."""
    settings = {}
    for setting in arguments.settings.split(","):
        environment = environment_of(setting, arguments.library_folder, folder)
        if environment is None:
            print(f"a library of {setting} is not here; the setting is left out", file=sys.stderr)
            continue
        for mode in arguments.modes.split(","):
            settings[f"torch {mode}, {setting}"] = (mode, environment)
    return settings


def environment_of(setting, library_folder, build_folder):
    libraries, environment = [], {}
    for part in setting.split("+"):
        if part not in PARTS:
            sys.exit(f"unknown setting {part}; known, to be joined by +: {', '.join(PARTS)}")
        names, variables = PARTS[part]
        libraries += [
            build_mkl_shim(build_folder) if name == "mkl_shim" else find_library(name, library_folder) for name in names
        ]
        environment |= variables
    if None in libraries:
        return None
    return environment | ({"LD_PRELOAD": ":".join(libraries)} if libraries else {})


def find_library(name, folder):
    """A path for LD_PRELOAD: below `folder`, or where the loader's cache says."""
    if folder:
        found = sorted(glob.glob(f"{folder}/**/lib{name}.so*", recursive=True))
        return os.path.abspath(found[0]) if found else None
    return ctypes.util.find_library(name)


def build_mkl_shim(folder):
    library = folder / "libmkl_shim.so"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=MKL_SHIM, text=True, check=True)
    return str(library)


def build_limits(folder):
    binary = folder / "limits"
    subprocess.run(["cc", "-O3", "-pthread", str(BENCH / "limits.c"), "-o", str(binary)], check=True)
    return binary


def measure(shape, settings, limits, arguments):
    def run_limits():
        return run_json([str(limits), "--json"], {})

    def run_ours():
        if arguments.without_ours:
            return None
        command = [arguments.taoye, "bench", "train", "--shape", shape, "--threads", str(arguments.threads), "--json"]
        return run_json(command, {})

    result = {"shape": shape, "threads": arguments.threads, "limits": [run_limits()], "ours": [], "torch": {}}
    for _ in range(arguments.rounds):
        before = run_ours()
        for label, (mode, environment) in settings.items():
            command = [
                arguments.python, str(BENCH / "train_torch.py"), "--shape", shape, "--mode", mode,
                "--threads", str(arguments.threads), "--warm-up", str(WARM_UP_STEPS[shape]),
                "--steps", str(TIMED_STEPS[shape]),
            ]
            theirs = run_json(command, environment | {"OMP_NUM_THREADS": str(arguments.threads)})
            after = run_ours()
            if before and after and theirs:
                theirs["ours_over_this"] = (before["tokens_per_s"] + after["tokens_per_s"]) / 2 / theirs["tokens_per_s"]
            if theirs:
                result["torch"].setdefault(label, []).append(theirs)
                progress(shape, label, theirs)
            if before:
                result["ours"].append(before)
                progress(shape, "taoye", before)
            before = after
        if before:
            result["ours"].append(before)
        result["limits"].append(run_limits())
    return result


def run_json(command, environment):
    """The object on the last line that `command` prints, with how many cores others used meanwhile; None on failure."""
    others_before, start = busy_seconds(), time.monotonic()
    children_before = os.times()
    try:
        process = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, timeout=RUN_SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        print(f"{' '.join(command)}: stopped after {RUN_SECONDS_MAX} s", file=sys.stderr)
        return None
    if process.returncode != 0 or not process.stdout.strip():
        print(f"{' '.join(command)}: exit {process.returncode}\n{process.stderr[-2000:]}", file=sys.stderr)
        return None
    figures = json.loads(process.stdout.strip().splitlines()[-1])
    children = os.times()
    own = sum(getattr(children, key) - getattr(children_before, key) for key in ("children_user", "children_system"))
    figures["others_cores"] = round(max(0.0, busy_seconds() - others_before - own) / (time.monotonic() - start), 2)
    return figures


def busy_seconds():
    """Processor time that anything has used since the machine started, time stolen by its host included."""
    with open("/proc/stat") as lines:
        user, nice, system, _idle, _wait, interrupt, soft, stolen = map(int, lines.readline().split()[1:9])
    return (user + nice + system + interrupt + soft + stolen) / os.sysconf("SC_CLK_TCK")


def progress(shape, label, figures):
    print(
        f"{shape} {label}: {figures['tokens_per_s']:.0f} tokens/s, {figures['peak_rss_bytes'] / 2**30:.2f} GiB, "
        f"others {figures['others_cores']} cores", file=sys.stderr, flush=True,
    )


def print_table(result):
    runs = {"taoye": result["ours"], **result["torch"]} if result["ours"] else result["torch"]
    cpu = next((run["cpu"] for group in runs.values() for run in group), "unknown")
    print(f"\nShape {result['shape']}, {result['threads']} threads, {cpu}\n")
    print("| | tokens/s, median | best | GFLOP/s | peak memory | taoye / this | others' cores |")
    print("|---|---|---|---|---|---|---|")
    for label, group in runs.items():
        speeds = [run["tokens_per_s"] for run in group]
        ratios = [run["ours_over_this"] for run in group if "ours_over_this" in run]
        print(
            f"| {label} | {statistics.median(speeds):.0f} | {max(speeds):.0f} "
            f"| {statistics.median(run['gflops'] for run in group):.0f} "
            f"| {statistics.median(run['peak_rss_bytes'] for run in group) / 2**30:.2f} GiB "
            f"| {f'{statistics.median(ratios):.2f}' if ratios else '–'} "
            f"| {statistics.median(run['others_cores'] for run in group):.2f} |"
        )
    limits = [limit for limit in result["limits"] if limit]
    print("\nLimits, measured before, between and after:")
    for key in limits[0] if limits else []:
        if key != "others_cores":
            print(f"- {key}: {', '.join(str(limit[key]) for limit in limits)}")


if __name__ == "__main__":
    main()

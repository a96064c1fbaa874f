"""All measurements on a GPU, in one command with deadlines.

``python benchmarks/gpu/gpu.py --out docs/benchmarks`` runs the phases one after the other, each in
its own process, so that a kernel that breaks the device only ends its own phase:

    environment   versions, the device, which backend serves what, measured ceilings
    correctness   every kernel compared with float64
    kernels       every kernel compared with torch, flash-attn and the device's limit
    decode        steps of the engine at 1, 64 and 256 requests
    prefill       prompts through the engine
    encoder       texts through encoders
    server        generation through a real server, where it is installed

``gpu.json`` is written after every row, ``gpu.svg`` and ``gpu.md`` at the end. ``--phase`` repeats
some phases and keeps the results of the others. ``--dry`` runs all of it without a GPU, with tiny
shapes and interpreted kernels, and writes ``gpu-dry.json``: a test of the benchmark, whose times
mean nothing.

The checkout does not have to be installed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = ("benchmarks", "kernels", "python_backends", "tests/support")
sys.path[:0] = [str(ROOT / folder) for folder in _FOLDERS]

# Phase -> the seconds after which it stops (it is killed after half as long again), and the module
# and function that run it.
PHASES = {
    "environment": (60.0, "gpu_environment", "environment"),
    "correctness": (240.0, "gpu_checks", "correctness"),
    "kernels": (300.0, "gpu_kernels", "timings"),
    "decode": (420.0, "gpu_models", "decoding"),
    "prefill": (180.0, "gpu_models", "prefill"),
    "encoder": (120.0, "gpu_models", "encoders"),
    "server": (300.0, "gpu_served", "serving"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--phase", nargs="+", choices=list(PHASES), default=list(PHASES))
    parser.add_argument("--dry", action="store_true", help="without a GPU, tiny and interpreted")
    parser.add_argument("--deadline", type=float, help="seconds for each phase")
    arguments = parser.parse_args()
    if not arguments.dry:
        import torch

        if not torch.cuda.is_available():
            sys.exit("torch sees no GPU; --dry runs without one")
    arguments.out.mkdir(parents=True, exist_ok=True)
    deadlines = {name: PHASES[name][0] for name in arguments.phase}
    if arguments.deadline is not None:
        deadlines = dict.fromkeys(arguments.phase, arguments.deadline)
    path = arguments.out / ("gpu-dry.json" if arguments.dry else "gpu.json")
    if arguments.dry or len(deadlines) == 1:
        phases = _run(path, arguments.dry, deadlines)
    else:
        phases = _run_apart(path, deadlines)
    from gpu_report import page, plot, print_tables

    # The results are already saved, even if a package for showing them is missing.
    for show in (
        lambda: print_tables({name: phases[name] for name in deadlines if name in phases}),
        lambda: plot(path.with_suffix(".svg"), phases),
        lambda: path.with_suffix(".md").write_text(page(phases)),
    ):
        try:
            show()
        except ImportError as error:
            print(f"not shown: {error}", flush=True)


def _run(path: Path, is_dry: bool, deadlines: dict[str, float]) -> dict[str, dict[str, object]]:
    """Runs phases in this process; returns all phases in the file."""
    # Kernels read this when they are imported.
    if is_dry:
        os.environ["TRITON_INTERPRET"] = "1"
    import torch
    from gpu_measure import Bench, Report, Row

    if is_dry:
        from interpreted import prepare_interpreter

        prepare_interpreter()
        # The interpreter also computes exp(-inf) - exp(-inf) for elements that are masked.
        warnings.filterwarnings("ignore", category=RuntimeWarning)
    bench = Bench(is_dry, torch.device("cpu" if is_dry else "cuda"))
    report = Report(path, bench.mode)
    for name, deadline in deadlines.items():
        print(f"{name} ({bench.mode})", flush=True)
        # Imported when it runs: a phase that cannot be imported does not affect the others.
        _, module, function = PHASES[name]
        rows: Iterator[Row] = getattr(importlib.import_module(module), function)(bench)
        report.run(name, rows, deadline)
    return report.phases


def _run_apart(path: Path, deadlines: dict[str, float]) -> dict[str, dict[str, object]]:
    """Runs each phase in its own process; returns all phases in the file."""
    from gpu_measure import Report

    for name, deadline in deadlines.items():
        command = [sys.executable, __file__, "--out", str(path.parent), "--phase", name]
        try:
            done = subprocess.run([*command, "--deadline", str(deadline)], timeout=1.5 * deadline)
            print(f"{name} ended with status {done.returncode}", flush=True)
        except subprocess.TimeoutExpired:
            print(f"{name} was killed after {1.5 * deadline:.0f} s", flush=True)
    return Report(path, "gpu").phases


if __name__ == "__main__":
    main()

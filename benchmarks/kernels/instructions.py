"""Speed of the native kernels with each instruction set of this CPU.

``python benchmarks/kernels/instructions.py`` measures linear layers (bfloat16 and int8) and packed
attention of BERT's sizes in one process per instruction set, next to oneDNN's bfloat16 product. It
prints the best of the repetitions in GFLOP/s.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))


import torch
from harness.measure import call_times_ms, machine, markdown

import atoll_kernels as kernels
from atoll_kernels.cpu import linear_native_dense, linear_native_quantized, linear_onednn
from atoll_kernels.cpu.native.build import usable_levels

LAYERS = ((384, 1536), (1536, 384), (768, 3072), (3072, 768))
ROWS = (8, 32, 128, 512)
ATTENTION = ((32, 128, 16), (32, 256, 8), (64, 256, 8), (64, 512, 4))
HEADS = 12


def best(function: Callable[[], object], flops: float, repetitions: int = 40) -> float:
    """GFLOP/s of the fastest call."""
    return flops / min(call_times_ms(function, repetitions)) / 1e6


def linear_layers() -> dict[str, float]:
    """Rates by title: the mean over ``LAYERS``."""
    found: dict[str, list[float]] = {}
    for width, outs in LAYERS:
        weight = (torch.randn(outs, width) * width**-0.5).bfloat16()
        packed = {
            "bf16": linear_native_dense.pack(weight, None),
            "bytes": linear_native_quantized.pack_int8(weight, None),
            "oneDNN bf16": linear_onednn.pack(weight, None),
        }
        for rows in ROWS:
            x = torch.randn(rows, width).bfloat16()
            for name, layer in packed.items():
                if layer is not None:
                    rate = best(lambda p=layer, x=x: p.forward(x), 2 * rows * width * outs)
                    found.setdefault(f"{name}, {rows} rows", []).append(rate)
    return {title: sum(rates) / len(rates) for title, rates in found.items()}


def attention() -> dict[str, float]:
    """Packed sequences of one length, bfloat16."""
    found, args = {}, kernels.AttentionArgs(0.1, causal=False)
    for size, length, count in ATTENTION:
        q, k, v = (torch.randn(length * count, HEADS, size).bfloat16() for _ in range(3))
        bounds = torch.arange(0, length * count + 1, length, dtype=torch.int32)
        flops = 4 * HEADS * size * length * length * count
        rate = best(
            lambda q=q, k=k, v=v, b=bounds: kernels.varlen_attention(q, k, v, b, b, args),
            flops,
        )
        found[f"attention, {HEADS} heads of {size}, length {length}"] = rate
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="print this process's rates as JSON")
    if parser.parse_args().measure:
        print(json.dumps({**linear_layers(), **attention()}))
        return
    names = [level.name for level in usable_levels() if "avx512_bf16" in level.needs]
    rates = {}
    for name in names:
        command = [sys.executable, __file__, "--measure"]
        environment = {**os.environ, "ATOLL_CPU_ISA": name}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        rates[name] = json.loads(done.stdout.splitlines()[-1])
    print(f"{machine()}, {torch.get_num_threads()} threads\n")
    rows = [(title, *(f"{rates[n][title]:.0f}" for n in names)) for title in rates[names[0]]]
    print(markdown(("GFLOP/s", *names), rows))


if __name__ == "__main__":
    main()

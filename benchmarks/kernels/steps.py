"""A decoding step of SmolLM2: kernel by kernel, replayed as a graph, and each kind of kernel alone.

``python benchmarks/kernels/steps.py --dtypes int8 bfloat16 --rows 1 8 32`` prints milliseconds: the
best and the median of 30.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atoll  # noqa: F401  # before torch: it sets how long torch's threads spin

# isort: split
import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable

sys.path.append(str(Path(__file__).resolve().parents[1]))


import torch
from harness.measure import call_times_ms, machine
from harness.models import Generator

from atoll.layers import Batch
from atoll_kernels.cpu.graph import CpuGraph, record
from atoll_kernels.cpu.native import library

BLOCK_SIZE, LENGTH, REPETITIONS = 16, 101, 30
KINDS = ("attention", "norm", "activation", "rope", "linear", "linear_quantized")


def timed(function: Callable[[], object]) -> str:
    """ms, best (median)."""
    times = call_times_ms(function, REPETITIONS)
    return f"{min(times):.2f} ({statistics.median(times):.2f})"


@torch.inference_mode()
def measure(dtype: str, rows: int) -> dict[str, str]:
    """Times by name; the last kernel of a step is the head's."""
    native = library()
    assert native is not None, "graphs need native kernels"
    per_text = -(-LENGTH // BLOCK_SIZE)
    model = Generator(dtype, rows * per_text, BLOCK_SIZE)
    blocks = torch.arange(rows * per_text, dtype=torch.int32).view(rows, per_text)
    last = LENGTH - 1
    batch = Batch(
        input_ids=torch.randint(0, 40000, (rows,)),
        positions=torch.full((rows,), last),
        slot_mappings=(blocks[:, last // BLOCK_SIZE].long() * BLOCK_SIZE + last % BLOCK_SIZE,),
        cu_seqlens=torch.arange(rows + 1, dtype=torch.int32),
        seq_lens=torch.full((rows,), LENGTH, dtype=torch.int32),
        block_tables=(blocks,),
        kv_cache=model.kv_cache,
        max_position=last,
        prompt_lens=torch.full((rows,), 64, dtype=torch.int32),
    )

    def step() -> torch.Tensor:
        return model.logits(batch)

    step()
    _, graph = record(step, native.replay)
    times = {"kernel by kernel": timed(step), "replayed": timed(graph.replay)}
    names = {getattr(native, kind)._address: kind for kind in KINDS}
    by_kind: defaultdict[str, list[tuple[int, bytes]]] = defaultdict(list)
    calls = [call for _, held in graph._held for call in held]
    for index, call in enumerate(calls):
        by_kind["head" if index == len(calls) - 1 else names[call[0]]].append(call)
    for kind, some in by_kind.items():
        alone = CpuGraph(native.replay)
        alone._kernels = some
        alone.close()
        times[f"{kind} x {len(some)}"] = timed(alone.replay)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtypes", nargs="+", default=["int8", "bfloat16"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 32])
    arguments = parser.parse_args()
    print(f"{machine()}\n")
    for dtype in arguments.dtypes:
        for rows in arguments.rows:
            found = measure(dtype, rows)
            print(f"{dtype}, {rows} rows: {'; '.join(f'{k} {v}' for k, v in found.items())}")


if __name__ == "__main__":
    main()

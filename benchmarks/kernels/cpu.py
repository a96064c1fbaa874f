"""CPU kernels at the shapes of real models, compared with torch's own and with hardware ceilings.

``python benchmarks/kernels/cpu.py --out docs/benchmarks`` lets the implementations of every case
take turns and writes ``kernels.json``, ``.md`` and ``.svg``. The ceilings (products of large
matrices, and the bandwidth of reading memory) are measured in the same run.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))


import torch
import torch.nn.functional as F
from cases import Case, repeated
from harness.measure import Contestant, Result, machine, race, table, versions, write
from row_cases import attention_cases, row_cases
from torch import Tensor

import atoll_kernels as kernels

# Total size of the weights that a contestant uses in turn, so that they are read from memory.
_WEIGHT_BYTES = 96 << 20
_PEAK_SIZE = 2048
# Our contestants: scheme, dtype of the input, dtype of the products, and bytes per weight.
OURS = {
    "Atoll fp32": ("dense", torch.float32, "fp32", 4.0),
    "Atoll bf16": ("dense", torch.bfloat16, "bf16", 2.0),
    "Atoll int8": ("int8", torch.bfloat16, "int8", 1.0),
    "Atoll int4": ("int4", torch.bfloat16, "int8", 0.5625),
}
TORCH = {
    "torch fp32": (torch.float32, "fp32", 4.0),
    "torch bf16": (torch.bfloat16, "bf16", 2.0),
}


@dataclass(frozen=True)
class Layer:
    """A linear layer of a model."""

    model: str
    out_features: int
    in_features: int
    rows: tuple[int, ...]


LAYERS = (
    Layer("MiniLM, up", 1536, 384, (32, 512, 4096)),
    Layer("bge-base, up", 3072, 768, (32, 2048)),
    Layer("SmolLM2-135M, gate and up", 3072, 576, (1, 8, 32, 512)),
    Layer("SmolLM2-135M, head", 49152, 576, (1, 8, 32)),
    Layer("Llama 1.1B, gate and up", 11264, 2048, (1, 8, 32, 512)),
)


def measured_ceilings(rounds: int) -> tuple[list[Result], dict[str, float]]:
    """GFLOP/s of large products by dtype, and GB/s of memory under "memory"."""
    size = _PEAK_SIZE
    units, x, weight = 2 * size**3 / 1e9, torch.randn(size, size), torch.randn(size, size)
    codes = torch.randint(0, 255, (size, size), dtype=torch.uint8)
    onednn, quantized = torch.ops.mkldnn, torch.ops.onednn
    packed = {
        d: onednn._reorder_linear_weight(weight.to(d)) for d in (torch.float32, torch.bfloat16)
    }
    packed8 = quantized.qlinear_prepack(weight.mul(30).clamp(-127, 127).to(torch.int8), None)
    ones, zeros = torch.ones(size), torch.zeros(size, dtype=torch.int32)
    large = torch.ones(_WEIGHT_BYTES)

    def product(dtype: torch.dtype) -> Contestant:
        rows = x.to(dtype)
        return repeated(
            lambda: onednn._linear_pointwise(rows, packed[dtype], None, "none", [], ""), units
        )

    contestants = {
        "fp32": product(torch.float32),
        "bf16": product(torch.bfloat16),
        "int8": repeated(
            lambda: quantized.qlinear_pointwise(
                codes, 1.0, 128, packed8, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
            ),
            units,
        ),
        "memory": repeated(large.sum, large.nbytes / 1e9),
    }
    results = race(contestants, "GFLOP/s or GB/s", rounds)
    return results, {r.name: max(r.rates) for r in results}


def linear_cases(peaks: Mapping[str, float]) -> Iterator[Case]:
    """Every layer with every number of rows; weights are packed when a case is reached."""
    for layer in LAYERS:
        weight = torch.randn(layer.out_features, layer.in_features) * layer.in_features**-0.5
        for rows in layer.rows:
            x = torch.randn(rows, layer.in_features)
            units = 2 * rows * weight.numel() / 1e9
            contestants, ceilings = {}, {}
            for name, (dtype, unit, width) in TORCH.items():
                contestants[name] = repeated(_by_torch(x.to(dtype), weight, width), units)
                ceilings[name] = _ceiling(peaks, rows, unit, width)
            for name, (scheme, dtype, unit, width) in OURS.items():
                contestants[name] = repeated(_by_us(x.to(dtype), weight, scheme, width), units)
                ceilings[name] = _ceiling(peaks, rows, unit, width)
            title = f"{layer.model} ({layer.out_features} x {layer.in_features}), {rows} rows"
            yield Case(title, "GFLOP/s", contestants, "torch fp32", ceilings)


def _by_torch(x: Tensor, weight: Tensor, width: float) -> Callable[[], object]:
    count = _copies(weight, width)
    weights = itertools.cycle([weight.to(x.dtype, copy=True) for _ in range(count)])
    return lambda: F.linear(x, next(weights))


def _by_us(x: Tensor, weight: Tensor, scheme: str, width: float) -> Callable[[], object]:
    wanted, count = weight.to(x.dtype), _copies(weight, width)
    layers = itertools.cycle([kernels.pack_linear(wanted, None, scheme) for _ in range(count)])
    return lambda: kernels.linear(x, next(layers))


def _copies(weight: Tensor, width: float) -> int:
    return max(1, int(_WEIGHT_BYTES / (weight.numel() * width)))


def _ceiling(peaks: Mapping[str, float], rows: int, unit: str, width: float) -> float:
    """The lower of two limits: arithmetic, and reading each weight (``width`` bytes) once."""
    return min(peaks[unit], 2 * rows * peaks["memory"] / width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    races: dict[str, list[Result]] = {}
    tables = []
    with torch.inference_mode():
        results, peaks = measured_ceilings(arguments.rounds)
        cases = linear_cases(peaks), row_cases(peaks), attention_cases(peaks)
        for case in itertools.chain(*cases):
            print(case.title)
            races[case.title] = found = race(case.contestants, case.unit, arguments.rounds)
            for r in found:
                r.cells["of the ceiling"] = f"{r.median / case.ceilings[r.name]:.0%}"
            tables.append(f"**{case.title}**\n\n{table(found, case.baseline)}")
    page = [_heading(peaks), *tables]
    print(write(arguments.out, "kernels", page, races, {"Ceilings": results}))


def _heading(peaks: Mapping[str, float]) -> str:
    products = ", ".join(f"{peaks[name]:.0f} in {name}" for name in ("fp32", "bf16", "int8"))
    return (
        f"{machine()}, {torch.get_num_threads()} threads; {versions(['torch'])}.\n\n"
        f"Ceilings, the best round: oneDNN's products of {_PEAK_SIZE} x {_PEAK_SIZE} matrices, "
        f"GFLOP/s: {products}; memory read at {peaks['memory']:.0f} GB/s. A layer's ceiling is the "
        "less of its products and of reading its weights once; the weights of a case do not fit "
        "into the caches together."
    )


if __name__ == "__main__":
    main()

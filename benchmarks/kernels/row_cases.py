"""Cases of ``cpu.py`` other than linear layers: norms, gates, attention."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from cases import Case, repeated
from torch import Tensor

import atoll_kernels as kernels

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Copies that a contestant uses in turn, so that keys and values are read from memory.
_CACHES = 6
_BLOCK_SIZE = 16

Work = Callable[[], object]


def row_cases(peaks: Mapping[str, float]) -> Iterator[Case]:
    """Memory-bound kernels: GB/s of the least that has to be read and written."""
    norms = (("LayerNorm, MiniLM", 384, 4096), ("RMSNorm, Llama 1.1B", 2048, 32))
    for name, width, rows in norms:
        make = _layer_norms if name.startswith("Layer") else _rms_norms
        title = f"add + {name} ({width} wide), {rows} rows"
        yield _case(title, "GB/s", peaks["memory"], 4 * rows * width / 1e9, make(rows, width))
    rows, width = 32, 5632
    title = f"SiLU gate, Llama 1.1B (2 x {width} wide), {rows} rows"
    yield _case(title, "GB/s", peaks["memory"], 3 * rows * width / 1e9, _gates(rows, width))


def attention_cases(peaks: Mapping[str, float]) -> Iterator[Case]:
    """Packed texts in GFLOP/s, and a decoding step in GB/s of keys and values."""
    for heads, dim, count, length in ((12, 32, 32, 128), (12, 64, 8, 512)):
        title = f"attention, {heads} heads of {dim}, {count} texts of {length} tokens"
        units = 4 * count * heads * length**2 * dim / 1e9
        yield _case(title, "GFLOP/s", peaks, units, _packed(heads, dim, count, length))
    for heads, kv_heads, dim, count, length in ((9, 3, 64, 32, 256), (32, 4, 64, 8, 1024)):
        title = f"decoding, {heads} heads of {dim} on {kv_heads}, {count} texts of {length} tokens"
        made = _decoding((heads, kv_heads, dim), count, length)
        units = 2 * count * length * kv_heads * dim / 1e9
        yield _case(title, "GB/s", peaks["memory"], units, made)


def _case(
    title: str, unit: str, peaks: Mapping[str, float] | float, units: float, made: dict[str, Work]
) -> Case:
    """units: of one call; for GB/s, as if each number took a byte."""
    contestants, ceilings = {}, {}
    for name, work in made.items():
        dtype = name.split()[-1]
        size = DTYPES[dtype].itemsize if unit == "GB/s" else 1
        contestants[name] = repeated(work, units * size)
        ceilings[name] = peaks if isinstance(peaks, float) else peaks[dtype]
    return Case(title, unit, contestants, "torch fp32", ceilings)


def _layer_norms(rows: int, width: int) -> dict[str, Work]:
    made: dict[str, Work] = {}
    for name, dtype in DTYPES.items():
        x, r, w, b = (torch.randn(*s, width).to(dtype) for s in ((rows,), (rows,), (), ()))
        made[f"torch {name}"] = partial(_add_layer_norm, x, r, w, b)
        made[f"Atoll {name}"] = partial(kernels.layer_norm, x, w, b, 1e-6, r)
    return made


def _rms_norms(rows: int, width: int) -> dict[str, Work]:
    made: dict[str, Work] = {}
    for name, dtype in DTYPES.items():
        x, r, w = (torch.randn(*s, width).to(dtype) for s in ((rows,), (rows,), ()))
        made[f"torch {name}"] = partial(_add_rms_norm, x, r, w)
        made[f"Atoll {name}"] = partial(kernels.rms_norm, x, w, 1e-6, r)
    return made


def _gates(rows: int, width: int) -> dict[str, Work]:
    made: dict[str, Work] = {}
    for name, dtype in DTYPES.items():
        x = torch.randn(rows, 2 * width).to(dtype)
        made[f"torch {name}"] = partial(_silu_gate, x)
        made[f"Atoll {name}"] = partial(kernels.gated_activation, x, "silu")
    return made


def _packed(heads: int, dim: int, count: int, length: int) -> dict[str, Work]:
    """torch's batch needs no padding here, since all texts have the same length."""
    made: dict[str, Work] = {}
    bounds = torch.arange(0, (count + 1) * length, length, dtype=torch.int32)
    for name, dtype in DTYPES.items():
        q, k, v = torch.randn(3, count * length, heads, dim).to(dtype)
        batch = [x.view(count, length, heads, dim).transpose(1, 2) for x in (q, k, v)]
        made[f"torch {name}"] = partial(F.scaled_dot_product_attention, *batch)
        made[f"Atoll {name}"] = partial(
            kernels.varlen_attention, q, k, v, bounds, bounds,
            kernels.AttentionArgs(dim**-0.5, causal=False),
        )  # fmt: skip
    return made


def _decoding(shape: tuple[int, int, int], count: int, length: int) -> dict[str, Work]:
    """Shuffled blocks for our kernel; contiguous texts for torch, which has no paged attention."""
    heads, kv_heads, dim = shape
    made: dict[str, Work] = {}
    num_blocks = count * length // _BLOCK_SIZE
    table = torch.randperm(num_blocks).int().view(count, -1)
    starts, lengths = torch.arange(count + 1).int(), torch.full((count,), length).int()
    for name, dtype in DTYPES.items():
        q = torch.randn(count, heads, dim).to(dtype)
        caches = [
            torch.randn(2, num_blocks, _BLOCK_SIZE, kv_heads, dim).to(dtype) for _ in range(_CACHES)
        ]
        made[f"torch {name}"] = partial(_decode_by_torch, q, itertools.cycle(caches), count)
        made[f"Atoll {name}"] = partial(
            _decode_by_us, q, itertools.cycle(caches), table, starts, lengths
        )
    return made


def _add_layer_norm(x: Tensor, r: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    total = x + r
    return F.layer_norm(total, w.shape, w, b, 1e-6), total


def _add_rms_norm(x: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    total = x + r
    return F.rms_norm(total, w.shape, w, 1e-6), total


def _silu_gate(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=1)
    return F.silu(gate) * up


def _decode_by_torch(q: Tensor, caches: Iterator[Tensor], count: int) -> Tensor:
    k, v = next(caches).flatten(1, 2).unflatten(1, (count, -1)).transpose(2, 3)
    return F.scaled_dot_product_attention(q.unsqueeze(2), k, v, enable_gqa=True)


def _decode_by_us(
    q: Tensor, caches: Iterator[Tensor], table: Tensor, starts: Tensor, lengths: Tensor
) -> Tensor:
    k, v = next(caches)
    args = kernels.AttentionArgs(q.shape[2] ** -0.5, causal=True)
    return kernels.paged_attention(q, kernels.PagedKV(k, v, table, lengths), starts, args)

"""The memory of the KV cache: a pair of tensors per layer, and the groups that layers form.

Layers with the same window are a group: a sequence has its blocks at the same places in all of
them, so one block table serves the group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from atoll.layers.batch import CacheSpec, LayerCache


def group_windows(specs: Sequence[CacheSpec]) -> tuple[int | None, ...]:
    """The window of each group of layers, in the order of their first layers."""
    return tuple(dict.fromkeys(spec.window for spec in specs))


def bytes_per_token(specs: Sequence[CacheSpec], dtype: torch.dtype) -> int:
    """Keys and values of all layers."""
    return sum(spec.bytes_per_token(dtype) for spec in specs)


def allocate(
    specs: Sequence[CacheSpec],
    num_blocks: int,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[LayerCache, ...]:
    """The cache of every layer, filled with zeros; a layer that shares one has the other's."""
    windows, caches = group_windows(specs), list[LayerCache]()
    for spec in specs:
        if spec.shared_with is not None:
            caches.append(caches[spec.shared_with])
            continue
        shape = (num_blocks, block_size, spec.num_kv_heads)
        keys = _zeros((*shape, spec.head_dim), dtype, device)
        values = _zeros((*shape, spec.value_dim or spec.head_dim), dtype, device)
        caches.append(LayerCache(keys, values, windows.index(spec.window)))
    return tuple(caches)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that cost nothing until they are used: on the CPU, pages that calloc has not touched.

    ``torch.zeros`` writes them all: 10 s and as many GB of resident memory as the cache may take.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes, alignment = math.prod(shape) * dtype.itemsize, 64
    raw = np.zeros(num_bytes + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return torch.from_numpy(raw[start : start + num_bytes]).view(dtype).view(shape)

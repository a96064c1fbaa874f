"""The memory of the KV cache: a pair of tensors per layer, and the groups of layers.

Layers with the same window form a group: a sequence has its blocks at the same indices in all of
them, so that one block table serves the group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from atoll.layers.batch import CacheSpec, LayerCache
from atoll.runner.step_input import Words


def group_windows(specs: Sequence[CacheSpec]) -> tuple[int | None, ...]:
    """The window of each group of layers, in the order of their first layers.

    A model without attention has one group all the same, whose blocks take no memory: they say
    which tokens a state stands for.
    """
    return tuple(dict.fromkeys(spec.window for spec in specs)) or (None,)


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
    """The cache of every layer, filled with zeros; layers that share one get the same tensors."""
    windows, caches = group_windows(specs), list[LayerCache]()
    for spec in specs:
        if spec.shared_with is not None:
            caches.append(caches[spec.shared_with])
            continue
        shape = (num_blocks, block_size, spec.num_kv_heads)
        keys = zeros((*shape, spec.head_dim), dtype, device)
        if spec.values_in_keys:
            values = keys[..., : spec.value_width]
        else:
            values = zeros((*shape, spec.value_width), dtype, device)
        caches.append(LayerCache(keys, values, windows.index(spec.window)))
    return tuple(caches)


def copy_blocks(kv_cache: Sequence[LayerCache], copies: Words) -> None:
    """Copies blocks of every layer; copies: (n, 3) group of layers, from block, to block. All are
    read before any is written, and none is written twice."""
    # Once each: layers may share a cache, and values may be a view of keys.
    tensors = {
        tensor.data_ptr(): (layer.group, tensor)
        for layer in kv_cache
        for tensor in (layer.values, layer.keys)
    }
    for group, tensor in tensors.values():
        pairs = copies[copies[:, 0] == group, 1:].astype(np.int64)
        source, target = torch.from_numpy(pairs).to(tensor.device).unbind(1)
        tensor[target] = tensor[source]


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that take no memory until they are used: on the CPU, untouched pages from calloc.

    ``torch.zeros`` writes them all, which takes 10 s and makes the whole cache resident.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes, alignment = math.prod(shape) * dtype.itemsize, 64
    raw = np.zeros(num_bytes + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return torch.from_numpy(raw[start : start + num_bytes]).view(dtype).view(shape)

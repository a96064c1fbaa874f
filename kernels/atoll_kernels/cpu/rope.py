"""Rotary embedding and the write to the KV cache, by one native kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import address, are_native


def apply_rope(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor | None:
    """See ``atoll_kernels.apply_rope``."""
    return x if _run(x, None, None, positions, cos, sin) else None


def write_kv(
    k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor
) -> bool | None:
    """See ``atoll_kernels.write_kv``."""
    return _run(None, k, v, None, None, None, k_cache, v_cache, slot_mapping)


def rope_write_kv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
) -> bool | None:
    """See ``atoll_kernels.rope_write_kv``."""
    return _run(q, k, v, positions, cos, sin, k_cache, v_cache, slot_mapping)


def _run(
    q: Tensor | None, k: Tensor | None, v: Tensor | None, positions: Tensor | None,
    cos: Tensor | None, sin: Tensor | None, k_cache: Tensor | None = None,
    v_cache: Tensor | None = None, slots: Tensor | None = None,
) -> bool | None:  # fmt: skip
    """Whatever is None is left out; the kernel reads no stride of it."""
    native, given = library(), [x for x in (q, k, v) if x is not None]
    if native is None or not are_native(*given):
        return None
    if any(x is not None and x.dtype != torch.float32 for x in (cos, sin)):
        return None
    if any(x is not None and x.dtype != given[0].dtype for x in (k_cache, v_cache)):
        return None
    flat = (cos, sin, k_cache, v_cache)
    if any(x is not None and not x.is_contiguous() for x in flat):
        return None
    tokens, _, head_dim = given[0].shape
    strides = [n for x in (q, k, v) for n in ((0, 0) if x is None else x.stride()[:2])]
    native.rope(
        given[0].dtype, *map(address, (q, k, v, positions, cos, sin, k_cache, v_cache, slots)),
        *strides, tokens, 0 if q is None else q.shape[1], 0 if k is None else k.shape[1], head_dim,
        0 if cos is None else cos.shape[1],
    )  # fmt: skip
    return True

"""Rotary embedding and the write to the KV cache, by one native kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import address, are_native


def apply_rope(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor | None:
    """See ``atoll_kernels.apply_rope``."""
    native = library()
    if native is None or not are_native(x) or not _tables_fit(cos, sin):
        return None
    tokens, num_heads, head_dim = x.shape
    token, head, _ = x.stride()
    native.rope(
        x.dtype, x.data_ptr(), 0, 0, positions.data_ptr(), cos.data_ptr(), sin.data_ptr(), 0, 0, 0,
        token, head, 0, 0, 0, 0, tokens, num_heads, 0, head_dim, cos.shape[1],
    )  # fmt: skip
    return x


def write_kv(
    k: Tensor, v: Tensor | None, k_cache: Tensor, v_cache: Tensor | None, slot_mapping: Tensor
) -> bool | None:
    """See ``atoll_kernels.write_kv``."""
    native = library()
    values, values_cache = k if v is None else v, k_cache if v_cache is None else v_cache
    if native is None or not are_native(k, values) or not _cache_fits(k, k_cache, values_cache):
        return None
    tokens, num_kv_heads, head_dim = k.shape
    native.rope(
        k.dtype, 0, k.data_ptr(), values.data_ptr(), 0, 0, 0,
        k_cache.data_ptr(), address(v_cache), slot_mapping.data_ptr(),
        0, 0, *k.stride()[:2], *values.stride()[:2], tokens, 0, num_kv_heads, head_dim, 0,
    )  # fmt: skip
    return True


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
    native = library()
    if native is None or not are_native(q, k, v) or not _tables_fit(cos, sin):
        return None
    if not _cache_fits(k, k_cache, v_cache):
        return None
    tokens, num_heads, head_dim = q.shape
    native.rope(
        q.dtype, q.data_ptr(), k.data_ptr(), v.data_ptr(), positions.data_ptr(), cos.data_ptr(),
        sin.data_ptr(), k_cache.data_ptr(), v_cache.data_ptr(), slot_mapping.data_ptr(),
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], tokens, num_heads, k.shape[1],
        head_dim, cos.shape[1],
    )  # fmt: skip
    return True


def _tables_fit(cos: Tensor, sin: Tensor) -> bool:
    return cos.dtype == torch.float32 and cos.is_contiguous() and sin.is_contiguous()


def _cache_fits(k: Tensor, k_cache: Tensor, v_cache: Tensor) -> bool:
    return k_cache.dtype == k.dtype and k_cache.is_contiguous() and v_cache.is_contiguous()

"""Attention by the native kernel: packed sequences and the paged cache share one implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.native import library

_DTYPES = (torch.float32, torch.bfloat16)


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    scale: float,
    causal: bool,
    window: int | None,
    alibi_slopes: Tensor | None,
    relative_bias: Tensor | None,
) -> Tensor | None:
    """See ``atoll_kernels.varlen_attention``."""
    native = library()
    if native is None or not _fits(q, k, v):
        return None
    slopes, relative = _floats(alibi_slopes), _floats(relative_bias)
    out = empty(q.shape, q.dtype)
    _, num_heads, head_dim = q.shape
    q_token, q_head, _ = q.stride()
    k_token, k_head, _ = k.stride()
    v_token, v_head, _ = v.stride()
    native.attention(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), cu_seqlens_q.data_ptr(),
        cu_seqlens_k.data_ptr(), 0, _address(slopes), _address(relative),
        q_token, q_head, 0, k_token, k_head, 0, v_token, v_head, 0, 0,
        len(cu_seqlens_q) - 1, num_heads, k.shape[1], head_dim, causal, window or 0,
        0 if relative is None else relative.shape[1] // 2, torch.get_num_threads(),
        q.dtype == torch.bfloat16, scale,
    )  # fmt: skip
    return out


def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    cu_seqlens_q: Tensor,
    seq_lens: Tensor,
    *,
    scale: float,
    causal: bool,
    window: int | None,
    alibi_slopes: Tensor | None,
    relative_bias: Tensor | None,
) -> Tensor | None:
    """See ``atoll_kernels.paged_attention``."""
    native = library()
    if native is None or not _fits(q, k_cache, v_cache):
        return None
    slopes, relative = _floats(alibi_slopes), _floats(relative_bias)
    out = empty(q.shape, q.dtype)
    _, num_heads, head_dim = q.shape
    q_token, q_head, _ = q.stride()
    _, block_size, num_kv_heads, _ = k_cache.shape
    native.attention(
        q.data_ptr(), k_cache.data_ptr(), v_cache.data_ptr(), out.data_ptr(),
        cu_seqlens_q.data_ptr(), seq_lens.data_ptr(), block_table.data_ptr(),
        _address(slopes), _address(relative),
        q_token, q_head, *k_cache.stride()[:3], *v_cache.stride()[:3],
        block_table.stride(0), block_size,
        len(seq_lens), num_heads, num_kv_heads, head_dim, causal, window or 0,
        0 if relative is None else relative.shape[1] // 2, torch.get_num_threads(),
        q.dtype == torch.bfloat16, scale,
    )  # fmt: skip
    return out


def _fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """bfloat16 is read in pairs, which an odd head size would break."""
    if q.dtype not in _DTYPES or k.dtype != q.dtype or v.dtype != q.dtype or q.shape[2] % 2:
        return False
    return q.stride(2) == k.stride(-1) == v.stride(-1) == 1


def _floats(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()

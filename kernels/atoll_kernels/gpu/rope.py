"""Rotary embedding and the write to the KV cache, by one kernel."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atoll_kernels.gpu.kernels.rope import rope_kernel

_BLOCK_H = 4


def apply_rope(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor | None:
    """See ``atoll_kernels.apply_rope``."""
    none = x[:, :0]
    done = _run(x, none, none, positions, cos, sin, None, None, positions, cos.shape[1])
    return x if done else None


def write_kv(
    k: Tensor, v: Tensor | None, k_cache: Tensor, v_cache: Tensor | None, slot_mapping: Tensor
) -> bool | None:
    """See ``atoll_kernels.write_kv``; the kernel rotates no features, and reads no angles."""
    values = k if v is None else v
    return _run(k[:, :0], k, values, slot_mapping, k, k, k_cache, v_cache, slot_mapping, 0)


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
    return _run(q, k, v, positions, cos, sin, k_cache, v_cache, slot_mapping, cos.shape[1])


def _run(
    q: Tensor, k: Tensor, v: Tensor, positions: Tensor, cos: Tensor, sin: Tensor,
    k_cache: Tensor | None, v_cache: Tensor | None, slots: Tensor, half: int,
) -> bool | None:  # fmt: skip
    """q or k and v may have no heads. A cache must be contiguous, so that a slot is one offset."""
    if any(x.stride(-1) != 1 or x.dtype == torch.float64 for x in (q, k, v)):
        return None
    if any(cache is not None and not cache.is_contiguous() for cache in (k_cache, v_cache)):
        return None
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads = k.shape[1]
    num_q_blocks, num_kv_blocks = -(-num_heads // _BLOCK_H), -(-num_kv_heads // _BLOCK_H)
    if num_tokens:
        rope_kernel[(num_tokens, num_q_blocks + num_kv_blocks)](
            q=q, k=k, v=v, k_cache=k if k_cache is None else k_cache,
            v_cache=v if v_cache is None else v_cache, positions=positions, slots=slots, cos=cos,
            sin=sin, q_stride=q.stride(0), q_head_stride=q.stride(1), k_stride=k.stride(0),
            k_head_stride=k.stride(1), v_stride=v.stride(0), v_head_stride=v.stride(1),
            cache_stride=num_kv_heads * head_dim, cache_head_stride=head_dim, num_heads=num_heads,
            num_kv_heads=num_kv_heads, half=half, head_dim=head_dim, num_q_blocks=num_q_blocks,
            VALUES=k_cache is None or v_cache is not None, BLOCK_H=_BLOCK_H,
            BLOCK_HALF=max(1, triton.next_power_of_2(half)),
            BLOCK_D=triton.next_power_of_2(head_dim), num_warps=2,
        )  # fmt: skip
    return True

"""Rotary embedding and the KV write on the GPU."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atoll_kernels.gpu.kernels.rope import rope_kernel, write_kv_kernel

_BLOCK_H = 4


def apply_rope(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor | None:
    """See ``atoll_kernels.apply_rope``."""
    if x.stride(-1) != 1 or x.dtype == torch.float64:
        return None
    num_tokens, num_heads, head_dim = x.shape
    half = cos.shape[1]
    num_blocks = triton.cdiv(num_heads, _BLOCK_H)
    if num_tokens:
        rope_kernel[(num_tokens, num_blocks)](
            q=x, k=x, v=x, k_cache=x, v_cache=x, positions=positions, slots=positions, cos=cos,
            sin=sin, q_stride=x.stride(0), q_head_stride=x.stride(1), k_stride=0, k_head_stride=0,
            v_stride=0, v_head_stride=0, cache_stride=0, cache_head_stride=0, num_heads=num_heads,
            num_kv_heads=0, half=half, head_dim=head_dim, num_q_blocks=num_blocks, KEYS=False,
            WRITE=False, BLOCK_H=_BLOCK_H, BLOCK_HALF=triton.next_power_of_2(half), BLOCK_D=16,
            num_warps=2,
        )  # fmt: skip
    return x


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
    if any(x.stride(-1) != 1 or x.dtype == torch.float64 for x in (q, k, v)):
        return None
    if not _is_flat(k_cache) or not _is_flat(v_cache):
        return None
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, half = k.shape[1], cos.shape[1]
    num_q_blocks = triton.cdiv(num_heads, _BLOCK_H)
    num_kv_blocks = triton.cdiv(num_kv_heads, _BLOCK_H)
    if num_tokens:
        rope_kernel[(num_tokens, num_q_blocks + num_kv_blocks)](
            q=q, k=k, v=v, k_cache=k_cache, v_cache=v_cache, positions=positions,
            slots=slot_mapping, cos=cos, sin=sin, q_stride=q.stride(0), q_head_stride=q.stride(1),
            k_stride=k.stride(0), k_head_stride=k.stride(1), v_stride=v.stride(0),
            v_head_stride=v.stride(1), cache_stride=k_cache.stride(1),
            cache_head_stride=k_cache.stride(2), num_heads=num_heads, num_kv_heads=num_kv_heads,
            half=half, head_dim=head_dim, num_q_blocks=num_q_blocks, KEYS=True, WRITE=True,
            BLOCK_H=_BLOCK_H, BLOCK_HALF=triton.next_power_of_2(half),
            BLOCK_D=triton.next_power_of_2(head_dim), num_warps=2,
        )  # fmt: skip
    return True


def write_kv(
    k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor
) -> bool | None:
    """See ``atoll_kernels.write_kv``."""
    if k.stride(-1) != 1 or v.stride(-1) != 1 or not _is_flat(k_cache) or not _is_flat(v_cache):
        return None
    num_tokens, num_kv_heads, head_dim = k.shape
    if num_tokens:
        write_kv_kernel[(num_tokens, triton.cdiv(num_kv_heads, _BLOCK_H))](
            k=k, v=v, k_cache=k_cache, v_cache=v_cache, slots=slot_mapping, k_stride=k.stride(0),
            k_head_stride=k.stride(1), v_stride=v.stride(0), v_head_stride=v.stride(1),
            cache_stride=k_cache.stride(1), cache_head_stride=k_cache.stride(2),
            num_kv_heads=num_kv_heads, head_dim=head_dim, BLOCK_H=_BLOCK_H,
            BLOCK_D=triton.next_power_of_2(head_dim), num_warps=2,
        )  # fmt: skip
    return True


def _is_flat(cache: Tensor) -> bool:
    """A slot's row is found by one multiplication only if blocks follow each other."""
    return cache.is_contiguous()

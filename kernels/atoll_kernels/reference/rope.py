"""Rotary embedding in plain torch."""

import torch
from torch import Tensor

from atoll_kernels import attention, rope


def apply_rope(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[1]
    c, s = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)
    first, second = x[..., :half].float(), x[..., half : 2 * half].float()
    rotated = torch.cat((first * c - second * s, second * c + first * s), dim=-1)
    x[..., : 2 * half] = rotated.to(x.dtype)
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
) -> bool:
    rope.apply_rope(q, positions, cos, sin)
    rope.apply_rope(k, positions, cos, sin)
    attention.write_kv(k, v, k_cache, v_cache, slot_mapping)
    return True

"""Rotary embedding in plain torch."""

import torch
from torch import Tensor


def apply_rope(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[1]
    c, s = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)
    first, second = x[..., :half].float(), x[..., half : 2 * half].float()
    rotated = torch.cat((first * c - second * s, second * c + first * s), dim=-1)
    x[..., : 2 * half] = rotated.to(x.dtype)
    return x

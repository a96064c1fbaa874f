"""Norms in plain torch; statistics in float32 for rows of any dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    total = x if residual is None else x + residual
    return F.layer_norm(total, total.shape[-1:], weight, bias, eps), total


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    total = x if residual is None else x + residual
    wide = total.float()
    inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (weight * (wide * inverse).to(weight.dtype)).to(total.dtype), total

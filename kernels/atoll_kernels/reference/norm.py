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


def grouped_rms_norm(
    x: Tensor, weight: Tensor, eps: float, group_size: int, gate: Tensor | None,
    is_gate_first: bool,
) -> Tensor:  # fmt: skip
    dtype = torch.promote_types(x.dtype, torch.float32)
    wide, opened = x.to(dtype), None if gate is None else F.silu(gate.to(dtype))
    if opened is not None and is_gate_first:
        wide = wide * opened
    groups = wide.unflatten(1, (-1, group_size))
    groups = groups * torch.rsqrt(groups.square().mean(-1, keepdim=True) + eps)
    out = (groups.to(weight.dtype) * weight.view(-1, group_size)).flatten(1)
    gated: Tensor = out if opened is None or is_gate_first else out * opened
    return gated.to(x.dtype)

"""Time steps, decays and strengths of recurrent layers in plain torch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def time_steps(x: Tensor, bias: Tensor | None, limits: tuple[float, float]) -> Tensor:
    wide = _wide(x)
    return F.softplus(wide if bias is None else wide + bias).clamp(*limits)


def delta_gates(a: Tensor, b: Tensor, rate: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return rate * F.softplus(_wide(a) + bias), _wide(b).sigmoid()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))

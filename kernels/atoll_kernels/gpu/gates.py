"""Time steps, decays and strengths of recurrent layers on the GPU."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from atoll_kernels.gpu.kernels.gates import gates_kernel

_BLOCK = 256


def time_steps(x: Tensor, bias: Tensor | None, limits: tuple[float, float]) -> Tensor | None:
    """See ``atoll_kernels.time_steps``."""
    found = _gates(x, bias, None, None, limits)
    return None if found is None else found[0]


def delta_gates(a: Tensor, b: Tensor, rate: Tensor, bias: Tensor) -> tuple[Tensor, Tensor] | None:
    """See ``atoll_kernels.delta_gates``."""
    return _gates(a, bias, rate, b, (-math.inf, math.inf))


def _gates(
    x: Tensor, bias: Tensor | None, scale: Tensor | None, opening: Tensor | None,
    limits: tuple[float, float],
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
    given = [t for t in (x, bias, scale, opening) if t is not None]
    if any(t.stride(-1) != 1 or t.dtype == torch.float64 for t in given):
        return None
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    opened = out if opening is None else torch.empty_like(out)
    if out.numel():
        width = x.shape[1]
        gates_kernel[(x.shape[0], triton.cdiv(width, _BLOCK))](
            out=out, opened=opened, x=x, bias=x if bias is None else bias,
            scale=x if scale is None else scale, opening=x if opening is None else opening,
            x_stride=x.stride(0), opening_stride=0 if opening is None else opening.stride(0),
            width=width, low=limits[0], high=limits[1], BIAS=bias is not None,
            SCALE=scale is not None, OPEN=opening is not None, BLOCK=_BLOCK, num_warps=1,
        )  # fmt: skip
    return out, opened

"""Activations and gated linear units on the GPU."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS, BY_NAME
from atoll_kernels.gpu.kernels.activation import activation_kernel

_BLOCK = 1024


def activate(x: Tensor, activation: str) -> Tensor | None:
    """See ``atoll_kernels.activate``."""
    if not x.is_contiguous():
        return None
    rows = x.view(-1, x.shape[-1]) if x.dim() != 2 else x
    out = _run(rows, activation, rows.shape[-1], is_gated=False)
    return None if out is None else out.view(x.shape)


def gated_activation(x: Tensor, activation: str) -> Tensor | None:
    """See ``atoll_kernels.gated_activation``."""
    if x.stride(-1) != 1:
        return None
    return _run(x, activation, x.shape[-1] // 2, is_gated=True)


def _run(x: Tensor, activation: str, width: int, *, is_gated: bool) -> Tensor | None:
    if activation not in (BY_NAME if is_gated else ACTIVATIONS) or x.dtype == torch.float64:
        return None
    out = torch.empty((x.shape[0], width), dtype=x.dtype, device=x.device)
    if out.numel():
        activation_kernel[(x.shape[0], triton.cdiv(width, _BLOCK))](
            out=out, x=x, x_stride=x.stride(0), width=width, CODE=BY_NAME[activation].value,
            GATED=is_gated, BLOCK=_BLOCK, num_warps=4,
        )  # fmt: skip
    return out

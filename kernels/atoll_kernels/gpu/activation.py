"""Activations and gated units on the GPU."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS, BY_NAME
from atoll_kernels.gpu.kernels.activation import activation_kernel

_BLOCK = 1024


def activate(x: Tensor, activation: str) -> Tensor | None:
    """See ``atoll_kernels.activate``."""
    if not x.is_contiguous() or activation not in ACTIVATIONS:
        return None
    rows = x.view(-1, x.shape[-1]) if x.dim() != 2 else x
    out = _run(rows, activation, None)
    return None if out is None else out.view(x.shape)


def gated_activation(x: Tensor, activation: str) -> Tensor | None:
    """See ``atoll_kernels.gated_activation``."""
    if activation not in BY_NAME:
        return None
    gate, up = x.chunk(2, -1)
    return _run(gate, activation, up)


def gate_rows(x: Tensor, gate: Tensor, activation: str | None) -> Tensor | None:
    """See ``atoll_kernels.gate_rows``."""
    return _run(gate, activation, x) if x.dtype == gate.dtype else None


def _run(x: Tensor, activation: str | None, factor: Tensor | None) -> Tensor | None:
    is_strided = any(t.stride(-1) != 1 for t in (x, factor) if t is not None)
    if x.dtype == torch.float64 or is_strided:
        return None
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if out.numel():
        width = x.shape[1]
        activation_kernel[(x.shape[0], triton.cdiv(width, _BLOCK))](
            out=out, x=x, factor=x if factor is None else factor, x_stride=x.stride(0),
            factor_stride=0 if factor is None else factor.stride(0), width=width,
            CODE=BY_NAME[activation].value, GATED=factor is not None, BLOCK=_BLOCK, num_warps=4,
        )  # fmt: skip
    return out

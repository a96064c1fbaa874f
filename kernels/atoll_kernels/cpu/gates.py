"""Time steps, decays and strengths of recurrent layers by the native kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import address, are_native


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
    """What is made of x, and of ``opening``; without the latter, the second is the first."""
    native = library()
    factors = [t for t in (bias, scale) if t is not None]
    if any(t.dtype != torch.float32 or not t.is_contiguous() for t in factors):
        return None
    if native is None or not are_native(x, *([] if opening is None else [opening])):
        return None
    out = empty(x.shape, torch.float32)
    opened = out if opening is None else empty(x.shape, torch.float32)
    native.gates(
        x.dtype, x.data_ptr(), address(bias), address(scale), address(opening), out.data_ptr(),
        opened.data_ptr(), *x.shape, x.stride(0), 0 if opening is None else opening.stride(0),
        *limits,
    )  # fmt: skip
    return out, opened

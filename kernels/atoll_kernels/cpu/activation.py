"""Activations and gated linear units by the native kernel."""

from __future__ import annotations

from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS, BY_NAME
from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import DTYPES


def activate(x: Tensor, activation: str) -> Tensor | None:
    """See ``atoll_kernels.activate``."""
    if not x.is_contiguous():
        return None
    out = _run(x.view(1, -1) if x.dim() < 2 else x.flatten(0, -2), activation, is_gated=False)
    return None if out is None else out.view(x.shape)


def gated_activation(x: Tensor, activation: str) -> Tensor | None:
    """See ``atoll_kernels.gated_activation``."""
    return _run(x, activation, is_gated=True) if x.dim() == 2 and x.stride(1) == 1 else None


def _run(x: Tensor, activation: str, is_gated: bool) -> Tensor | None:
    native = library()
    known = BY_NAME if is_gated else ACTIVATIONS
    if native is None or activation not in known or x.dtype not in DTYPES:
        return None
    rows, width = x.shape
    out = empty((rows, width // 2 if is_gated else width), x.dtype)
    native.activation(
        x.dtype, x.data_ptr(), out.data_ptr(), rows, out.shape[1], x.stride(0),
        BY_NAME[activation], is_gated,
    )  # fmt: skip
    return out

"""Activations and gated units by the native kernel."""

from __future__ import annotations

from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS, BY_NAME
from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import DTYPES, address


def activate(x: Tensor, activation: str) -> Tensor | None:
    """See ``atoll_kernels.activate``."""
    if not x.is_contiguous() or activation not in ACTIVATIONS:
        return None
    out = _run(x.view(1, -1) if x.dim() < 2 else x.flatten(0, -2), activation, None)
    return None if out is None else out.view(x.shape)


def gated_activation(x: Tensor, activation: str) -> Tensor | None:
    """See ``atoll_kernels.gated_activation``."""
    if x.dim() != 2 or activation not in BY_NAME:
        return None
    gate, up = x.chunk(2, 1)
    return _run(gate, activation, up)


def gate_rows(x: Tensor, gate: Tensor, activation: str | None) -> Tensor | None:
    """See ``atoll_kernels.gate_rows``."""
    return _run(gate, activation, x) if x.dtype == gate.dtype and x.dim() == 2 else None


def _run(x: Tensor, activation: str | None, factor: Tensor | None) -> Tensor | None:
    native = library()
    rows = [x, *([] if factor is None else [factor])]
    if native is None or x.dtype not in DTYPES or any(t.stride(1) != 1 for t in rows):
        return None
    out = empty(x.shape, x.dtype)
    native.activation(
        x.dtype, x.data_ptr(), address(factor), out.data_ptr(), *x.shape, x.stride(0),
        0 if factor is None else factor.stride(0), BY_NAME[activation],
    )  # fmt: skip
    return out

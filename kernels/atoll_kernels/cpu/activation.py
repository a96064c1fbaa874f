"""Activations and gated linear units by the native kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.native import library

_DTYPES = (torch.float32, torch.bfloat16)

# As numbered in native/src/epilogue.h; a name that is not here is left to torch.
KINDS = {
    "gelu": 0, "gelu_new": 1, "gelu_fast": 1, "gelu_pytorch_tanh": 1, "silu": 2, "swish": 2,
    "relu": 3,
}  # fmt: skip


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
    native, kind = library(), KINDS.get(activation)
    if native is None or kind is None or x.dtype not in _DTYPES:
        return None
    rows, width = x.shape
    out = empty((rows, width // 2 if is_gated else width), x.dtype)
    native.activation(
        x.data_ptr(), out.data_ptr(), rows, out.shape[1], x.stride(0), kind, is_gated,
        x.dtype == torch.bfloat16, torch.get_num_threads(),
    )  # fmt: skip
    return out

"""LayerNorm and RMSNorm by the native kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import DTYPES, address, are_native


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, residual: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """See ``atoll_kernels.layer_norm``."""
    return _norm(x, weight, bias, eps, residual, is_rms=False)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """See ``atoll_kernels.rms_norm``."""
    return _norm(x, weight, None, eps, residual, is_rms=True)


def _norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, residual: Tensor | None,
    is_rms: bool,
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
    """Rows may be strided; all has the dtype of x, but an RMSNorm's weight may be float32."""
    native = library()
    dtype = x.dtype
    if native is None or dtype not in DTYPES or x.dim() != 2 or x.stride(1) != 1:
        return None
    weight_dtypes = (dtype, torch.float32) if is_rms else (dtype,)
    if weight is not None and weight.dtype not in weight_dtypes:
        return None
    if bias is not None and bias.dtype != dtype:
        return None
    rows, width = x.shape
    out, total, residual_row = empty((rows, width), dtype), x, 0
    if residual is not None:
        if residual.dtype != dtype or residual.stride(1) != 1:
            return None
        total, residual_row = empty((rows, width), dtype), residual.stride(0)
    native.norm(
        dtype, x.data_ptr(), address(residual), address(weight), address(bias), out.data_ptr(),
        total.data_ptr(), rows, width, x.stride(0), residual_row, is_rms,
        weight is None or weight.dtype == torch.bfloat16, eps,
    )  # fmt: skip
    return out, total


def grouped_rms_norm(
    x: Tensor, weight: Tensor, eps: float, group_size: int, gate: Tensor | None,
    is_gate_first: bool,
) -> Tensor | None:  # fmt: skip
    """See ``atoll_kernels.grouped_rms_norm``."""
    native = library()
    others = [] if gate is None else [gate]
    if native is None or not are_native(x, *others) or not weight.is_contiguous():
        return None
    if weight.dtype not in (x.dtype, torch.float32):
        return None
    rows, width = x.shape
    out = empty((rows, width), x.dtype)
    native.gated_norm(
        x.dtype, x.data_ptr(), address(gate), weight.data_ptr(), out.data_ptr(), rows,
        width // group_size, group_size, x.stride(0), 0 if gate is None else gate.stride(0),
        len(weight) == group_size, weight.dtype == torch.bfloat16,
        gate is not None and is_gate_first, eps,
    )  # fmt: skip
    return out

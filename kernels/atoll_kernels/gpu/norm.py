"""LayerNorm and RMSNorm on the GPU, of rows or of groups of features."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atoll_kernels.gpu.kernels.norm import grouped_norm_kernel, norm_kernel

# A row must fit the registers of one program.
_MAX_HIDDEN = 32768


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
    *, is_rms: bool,
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
    num_tokens, hidden = x.shape
    if hidden > _MAX_HIDDEN or x.stride(-1) != 1 or x.dtype == torch.float64:
        return None
    if residual is not None and residual.stride(-1) != 1:
        return None
    out = torch.empty((num_tokens, hidden), dtype=x.dtype, device=x.device)
    total = x if residual is None else torch.empty_like(out)
    if num_tokens == 0:
        return out, total
    block = triton.next_power_of_2(hidden)
    norm_kernel[(num_tokens,)](
        out=out, sums=total, x=x, residual=x if residual is None else residual,
        weight=x if weight is None else weight, bias=x if bias is None else bias,
        x_stride=x.stride(0), residual_stride=0 if residual is None else residual.stride(0),
        hidden=hidden, eps=eps, RMS=is_rms, RESIDUAL=residual is not None,
        WEIGHT=weight is not None, BIAS=bias is not None, BLOCK=block,
        num_warps=min(16, max(1, block // 512)),
    )  # fmt: skip
    return out, total


def grouped_rms_norm(
    x: Tensor, weight: Tensor, eps: float, group_size: int, gate: Tensor | None,
    is_gate_first: bool,
) -> Tensor | None:  # fmt: skip
    """See ``atoll_kernels.grouped_rms_norm``."""
    num_tokens, width = x.shape
    if group_size > _MAX_HIDDEN or x.dtype == torch.float64 or x.stride(1) != 1:
        return None
    if not weight.is_contiguous() or (gate is not None and gate.stride(1) != 1):
        return None
    out = torch.empty((num_tokens, width), dtype=x.dtype, device=x.device)
    if num_tokens == 0:
        return out
    block = triton.next_power_of_2(group_size)
    grouped_norm_kernel[(num_tokens, width // group_size)](
        out=out, x=x, gate=x if gate is None else gate, weight=weight, x_stride=x.stride(0),
        gate_stride=0 if gate is None else gate.stride(0),
        weight_stride=0 if len(weight) == group_size else group_size, size=group_size, eps=eps,
        GATE=gate is not None, FIRST=is_gate_first, BLOCK=block,
        num_warps=min(16, max(1, block // 512)),
    )  # fmt: skip
    return out

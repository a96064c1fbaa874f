"""Linear layers of a single row; what holds their weights decides how.

8-bit weights are not here: converting them takes as long as reading them, on either kind of core.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atoll_kernels.activation import BY_NAME
from atoll_kernels.gpu import launch
from atoll_kernels.gpu.kernels.gemv import gemv_int4_kernel, gemv_kernel
from atoll_kernels.gpu.kernels.matmul import add_splits_kernel

_MAX_SPLITS = 16
_ADD_BLOCK = 512
# Programs for each processor: they wait for memory, and more of them keep more loads in flight.
_WAVES = 4


def dense_row(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None
) -> Tensor | None:
    """``linear`` for x (1, in_features); declines other dtypes and strides."""
    if not _fits(x, weight):
        return None
    num_columns, num_inputs = weight.shape
    out = torch.empty((1, num_columns), dtype=x.dtype, device=x.device)
    config = launch.configuration("gemv", "dense")
    gemv_kernel[(triton.cdiv(num_columns, config.block_n),)](
        out=out, x=x, weight=weight, bias=out if bias is None else bias, num_columns=num_columns,
        num_inputs=num_inputs, BIAS=bias is not None, CODE=BY_NAME[activation].value,
        BLOCK_N=config.block_n, BLOCK_K=config.block_k, num_warps=config.num_warps,
    )  # fmt: skip
    return out


def int4_row(
    x: Tensor, tensors: tuple[Tensor, ...], group: int, order: Tensor | None,
    bias: Tensor | None, activation: str | None,
) -> Tensor | None:  # fmt: skip
    """``linear`` for x (1, in_features); declines other dtypes and strides. See ``GpuInt4``.

    The inputs are split among programs where the columns alone do not fill the card.
    """
    words, scales, zeros = tensors
    if not _fits(x, words):
        return None
    num_columns, num_inputs = words.shape[1], x.shape[1]
    out = torch.empty((1, num_columns), dtype=x.dtype, device=x.device)
    config = launch.configuration("gemv", "int4")
    depth = launch.dividing(config.block_k, group)
    blocks = triton.cdiv(num_columns, config.block_n)
    wanted = _WAVES * launch.num_processors() // blocks
    splits = max(1, min(wanted, num_inputs // depth // 4, _MAX_SPLITS))
    end = {"BIAS": bias is not None, "CODE": BY_NAME[activation].value}
    target, own_end = out, end
    if splits > 1:
        target = torch.empty((splits, num_columns), dtype=torch.float32, device=x.device)
        own_end = {"BIAS": False, "CODE": 0}
    addend = out if bias is None else bias
    gemv_int4_kernel[(blocks, splits)](
        out=target, x=x, words=words, scales=scales, zeros=zeros,
        order=words if order is None else order, bias=addend, num_columns=num_columns,
        num_inputs=num_inputs, group=group, ORDER=order is not None, **own_end, SPLITS=splits,
        BLOCK_N=config.block_n, BLOCK_K=depth, num_warps=config.num_warps,
    )  # fmt: skip
    if splits > 1:
        add_splits_kernel[(1, triton.cdiv(num_columns, _ADD_BLOCK))](
            out=out, partial=target, bias=addend, num_rows=1, num_columns=num_columns,
            SPLITS=splits, **end, BLOCK=_ADD_BLOCK, num_warps=4,
        )  # fmt: skip
    return out


def _fits(x: Tensor, weight: Tensor) -> bool:
    return x.dtype != torch.float64 and x.stride(-1) == 1 and weight.is_contiguous()

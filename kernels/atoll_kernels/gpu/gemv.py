"""Linear layers of a single row, with dense and 4-bit weights.

8-bit weights would gain nothing: converting them takes as long as reading them, with or without
tensor cores.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from atoll_kernels.activation import BY_NAME
from atoll_kernels.gpu import launch
from atoll_kernels.gpu.kernels.gemv import gemv_int4_kernel, gemv_kernel
from atoll_kernels.gpu.kernels.matmul import add_splits_kernel

_MAX_SPLITS = 16
_ADD_BLOCK = 512


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

    The inputs are split among programs if the columns alone do not fill the GPU.
    """
    words, scales, zeros = tensors
    if not _fits(x, words):
        return None
    num_columns, num_inputs = words.shape[1], x.shape[1]
    out = torch.empty((1, num_columns), dtype=x.dtype, device=x.device)
    config = launch.configuration("gemv", "int4")
    depth = launch.dividing(config.block_k, group)
    blocks = triton.cdiv(num_columns, config.block_n)
    splits = num_splits(blocks, num_inputs // depth)
    target, epilogue = split_output(out, splits, bias, activation)
    gemv_int4_kernel[(blocks, splits)](
        out=target, x=x, words=words, scales=scales, zeros=zeros,
        order=words if order is None else order, num_columns=num_columns, num_inputs=num_inputs,
        group=group, ORDER=order is not None, **epilogue, SPLITS=splits, BLOCK_N=config.block_n,
        BLOCK_K=depth, num_warps=config.num_warps,
    )  # fmt: skip
    return add_splits(out, target, bias, activation) if splits > 1 else out


def num_splits(num_tiles: int, num_steps: int, waves: int = 4) -> int:
    """Splits along the inputs, each of at least four steps: as many as fill the GPU.

    waves: programs per multiprocessor. With few rows they wait for memory, and several of them keep
    more loads in flight.
    """
    wanted = waves * launch.num_processors() // num_tiles
    return max(1, min(wanted, num_steps // 4, _MAX_SPLITS))


def split_output(
    out: Tensor, splits: int, bias: Tensor | None, activation: str | None
) -> tuple[Tensor, dict[str, Any]]:
    """What a product writes to, and its epilogue: none if ``add_splits`` follows."""
    bias_or_any = out if bias is None else bias
    if splits == 1:
        code = BY_NAME[activation].value
        return out, {"bias": bias_or_any, "BIAS": bias is not None, "CODE": code}
    partial = torch.empty((splits, *out.shape), dtype=torch.float32, device=out.device)
    return partial, {"bias": bias_or_any, "BIAS": False, "CODE": 0}


def add_splits(out: Tensor, partial: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """Adds up what a product wrote for each split, with the epilogue; returns ``out``."""
    num_rows, num_columns = out.shape
    add_splits_kernel[(num_rows, triton.cdiv(num_columns, _ADD_BLOCK))](
        out=out, partial=partial, bias=out if bias is None else bias, num_rows=num_rows,
        num_columns=num_columns, SPLITS=len(partial), BIAS=bias is not None,
        CODE=BY_NAME[activation].value, BLOCK=_ADD_BLOCK, num_warps=4,
    )  # fmt: skip
    return out


def _fits(x: Tensor, weight: Tensor) -> bool:
    return x.dtype != torch.float64 and x.stride(-1) == 1 and weight.is_contiguous()

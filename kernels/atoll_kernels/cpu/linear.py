"""Linear layers on the CPU: the choice of a layout for each weight."""

import torch
from torch import Tensor

from atoll_kernels.cpu import (
    linear_native_dense,
    linear_native_int8_groups,
    linear_native_mxfp4,
    linear_native_quantized,
    linear_onednn,
    linear_onednn_int8,
    linear_torch_int4,
)
from atoll_kernels.cpu.int4_groups import Groups
from atoll_kernels.linear import PackedLinear, group_order


def pack_linear(
    weight: Tensor, bias: Tensor | None, scheme: str, group_size: int
) -> PackedLinear | None:
    """See ``atoll_kernels.pack_linear``; 8 bits where no 4-bit kernel takes the shape."""
    if scheme == "dense":
        return linear_native_dense.pack(weight, bias) or linear_onednn.pack(weight, bias)
    packed = _pack_int4(weight, bias, group_size) if scheme == "int4" else None
    return (
        packed
        or linear_native_quantized.pack_int8(weight, bias)
        or linear_onednn_int8.pack(weight, bias)
    )


def pack_int4(
    codes: Tensor, zeros: Tensor, scales: Tensor, groups: Tensor, bias: Tensor | None,
    dtype: torch.dtype,
) -> PackedLinear | None:  # fmt: skip
    """See ``atoll_kernels.pack_int4``; for float32, neither scales nor rows are rounded."""
    size, order = group_order(groups, len(scales))
    if size == 0:
        return None
    middles = (8 - zeros.float()) * scales.float()
    codes = (codes if order is None else codes[order]).t()
    found = Groups(codes, scales.float().t(), middles.t(), order=order)
    native = linear_native_quantized.pack_groups(found, bias) if dtype == torch.bfloat16 else None
    return native or linear_torch_int4.pack_groups(found, bias, dtype)


def pack_int8_groups(
    codes: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> PackedLinear | None:
    """See ``atoll_kernels.pack_int8_groups``."""
    return linear_native_int8_groups.pack(codes, scales, bias)


def pack_mxfp4(
    blocks: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> PackedLinear | None:
    """See ``atoll_kernels.pack_mxfp4``."""
    return linear_native_mxfp4.pack(blocks, scales, bias)


def _pack_int4(weight: Tensor, bias: Tensor | None, group_size: int) -> PackedLinear | None:
    native = linear_native_quantized.pack_int4(weight, bias, group_size)
    return native or linear_torch_int4.pack(weight, bias, group_size)

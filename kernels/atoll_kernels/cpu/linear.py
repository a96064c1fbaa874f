"""Linear layers on CPU: which layout a weight is packed in."""

import torch
from torch import Tensor

from atoll_kernels.cpu import (
    linear_native_dense,
    linear_native_quantized,
    linear_onednn,
    linear_onednn_int8,
    linear_torch_int4,
)
from atoll_kernels.linear import PackedLinear


def pack_linear(
    weight: Tensor, bias: Tensor | None, scheme: str, group_size: int
) -> PackedLinear | None:
    """See ``atoll_kernels.pack_linear``; shapes that 4 bits do not take get 8."""
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
    """See ``atoll_kernels.pack_int4``; float32 keeps the scales and the rows as they are."""
    found = linear_torch_int4.arrange(codes, zeros, scales, groups)
    if found is None:
        return None
    native = linear_native_quantized.pack_arranged(found, bias) if dtype == torch.bfloat16 else None
    return native or linear_torch_int4.pack_arranged(found, bias, dtype)


def _pack_int4(weight: Tensor, bias: Tensor | None, group_size: int) -> PackedLinear | None:
    native = linear_native_quantized.pack_int4(weight, bias, group_size)
    return native or linear_torch_int4.pack(weight, bias, group_size)

"""Linear layers on CPU: which implementation packs a weight, and which runs a packed one."""

from collections.abc import Callable

import torch
from torch import Tensor

from atoll_kernels.cpu import (
    linear_float,
    linear_grouped,
    linear_int4,
    linear_int8,
    linear_native,
)
from atoll_kernels.linear import PackedLinear

_FORWARD: dict[str, Callable[[Tensor, PackedLinear, str | None], Tensor]] = {
    linear_float.LAYOUT: linear_float.linear,
    linear_int8.LAYOUT: linear_int8.linear,
    linear_native.LAYOUT: linear_native.linear,
    linear_grouped.LAYOUT: linear_grouped.linear,
    linear_int4.LAYOUT: linear_int4.linear,
}


def pack_linear(
    weight: Tensor, bias: Tensor | None, scheme: str, group_size: int
) -> PackedLinear | None:
    """See ``atoll_kernels.pack_linear``; shapes that 4 bits do not take get 8."""
    if scheme == "dense":
        return linear_native.pack(weight, bias) or linear_float.pack(weight, bias)
    packed = _pack_int4(weight, bias, group_size) if scheme == "int4" else None
    return packed or linear_grouped.pack_int8(weight, bias) or linear_int8.pack(weight, bias)


def pack_int4(
    codes: Tensor, zeros: Tensor, scales: Tensor, groups: Tensor, bias: Tensor | None,
    dtype: torch.dtype,
) -> PackedLinear | None:  # fmt: skip
    """See ``atoll_kernels.pack_int4``; float32 keeps the scales and the rows as they are."""
    found = linear_int4.arrange(codes, zeros, scales, groups)
    if found is None:
        return None
    native = linear_grouped.pack_arranged(found, bias) if dtype == torch.bfloat16 else None
    return native or linear_int4.pack_arranged(found, bias, dtype)


def linear(x: Tensor, packed: PackedLinear, activation: str | None) -> Tensor | None:
    """See ``atoll_kernels.linear``; declines layouts that are not its own."""
    forward = _FORWARD.get(packed.layout)
    return None if forward is None else forward(x, packed, activation)


def gated_linear(x: Tensor, packed: PackedLinear, activation: str) -> Tensor | None:
    """See ``atoll_kernels.gated_linear``; declines layouts that have no such product."""
    if packed.layout == linear_grouped.LAYOUT:
        return linear_grouped.gated_linear(x, packed, activation)
    if packed.layout == linear_native.LAYOUT:
        return linear_native.gated_linear(x, packed, activation)
    return None


def _pack_int4(weight: Tensor, bias: Tensor | None, group_size: int) -> PackedLinear | None:
    native = linear_grouped.pack_int4(weight, bias, group_size)
    return native or linear_int4.pack(weight, bias, group_size)

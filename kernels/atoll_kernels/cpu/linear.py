"""Linear layers on CPU: which implementation packs a weight, and which runs a packed one."""

from collections.abc import Callable

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
        return linear_native.pack(weight, bias, scheme) or linear_float.pack(weight, bias)
    packed = _pack_int4(weight, bias, group_size) if scheme == "int4" else None
    return packed or linear_grouped.pack_int8(weight, bias) or linear_int8.pack(weight, bias)


def linear(x: Tensor, packed: PackedLinear, activation: str | None) -> Tensor | None:
    """See ``atoll_kernels.linear``; declines layouts that are not its own."""
    forward = _FORWARD.get(packed.layout)
    return None if forward is None else forward(x, packed, activation)


def _pack_int4(weight: Tensor, bias: Tensor | None, group_size: int) -> PackedLinear | None:
    native = linear_grouped.pack_int4(weight, bias, group_size)
    return native or linear_int4.pack(weight, bias, group_size)

"""Linear layers on CPU: which implementation packs a weight, and which runs a packed one."""

from collections.abc import Callable

from torch import Tensor

from atoll_kernels.cpu import linear_float
from atoll_kernels.linear import PackedLinear

_FORWARD: dict[str, Callable[[Tensor, PackedLinear, str | None], Tensor]] = {
    linear_float.LAYOUT: linear_float.linear,
}


def pack_linear(
    weight: Tensor, bias: Tensor | None, scheme: str, group_size: int
) -> PackedLinear | None:
    """See ``atoll_kernels.pack_linear``."""
    return linear_float.pack(weight, bias) if scheme == "dense" else None


def linear(x: Tensor, packed: PackedLinear, activation: str | None) -> Tensor | None:
    """See ``atoll_kernels.linear``; declines layouts that are not its own."""
    forward = _FORWARD.get(packed.layout)
    return None if forward is None else forward(x, packed, activation)

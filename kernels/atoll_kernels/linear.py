"""Linear layers whose weights are packed once, at load, for the machine at hand."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll_kernels import dispatch
from atoll_kernels.activation import gated_activation

SCHEMES = ("dense", "int8", "int4")


@dataclass(eq=False)
class PackedLinear(ABC):
    """A weight in the layout that one class can multiply.

    tensors: the weight and, where it is quantised, its scales and zeros, as the class arranges
    them. bias: (out_features,).
    """

    in_features: int
    out_features: int
    tensors: tuple[Tensor, ...]
    bias: Tensor | None

    @property
    @abstractmethod
    def scheme(self) -> str:
        """ "dense" (the weight's dtype), "int8" (int8 weights with a scale per output) or "int4"
        (groups of inputs share a scale).
        """

    @abstractmethod
    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """See ``linear``."""

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """See ``gated_linear``."""
        return gated_activation(self.forward(x), activation)


def pack_linear(
    weight: Tensor, bias: Tensor | None, scheme: str = "dense", group_size: int = 32
) -> PackedLinear:
    """Packs ``weight`` (out_features, in_features) and ``bias`` (out_features,) for ``linear``.

    The source tensors may be released afterwards. ``group_size`` is used by "int4" alone.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme {scheme!r} is not one of {SCHEMES}")
    result: PackedLinear = dispatch.run("pack_linear", weight, bias, scheme, group_size)
    return result


def pack_int4(
    codes: Tensor,
    zeros: Tensor,
    scales: Tensor,
    groups: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> PackedLinear:
    """Packs a weight that a checkpoint already holds in 4 bits (GPTQ, AWQ), for x of ``dtype``.

    ``weight[n, k] = scales[groups[k], n] * (codes[k, n] - zeros[groups[k], n])``

    Args:
        codes: (in_features, out_features) int32, 0..15. zeros: (num_groups, out_features), 0..16.
        scales: (num_groups, out_features). groups: (in_features,) int64, in any order.

    Where no kernel takes 4 bits, the weight is expanded to ``dtype``.
    """
    result: PackedLinear = dispatch.run("pack_int4", codes, zeros, scales, groups, bias, dtype)
    return result


def linear(x: Tensor, packed: PackedLinear, activation: str | None = None) -> Tensor:
    """``activation(x @ weight.T + bias)`` for x (tokens, in_features); dtype of x."""
    return packed.forward(x, activation)


def gated_linear(x: Tensor, packed: PackedLinear, activation: str) -> Tensor:
    """A gated linear unit: ``gated_activation(linear(x, packed), activation)``.

    ``packed`` has 2n outputs: the gate's, which ``activation`` takes, and those it multiplies. In
    one kernel where there is one, which rounds the product alone. Returns (tokens, n); dtype of x.
    """
    return packed.gated(x, activation)

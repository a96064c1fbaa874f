"""Linear layers whose weights are packed once, at load, for the machine at hand."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from atoll_kernels import dispatch

SCHEMES = ("dense", "int8", "int4")


@dataclass
class PackedLinear:
    """A weight in the layout that its implementation wants.

    ``scheme``: "dense" (the weight's dtype), "int8" (per-channel int8 weights, per-token
    activations), "int4" (group-wise). ``tensors`` and ``extra`` belong to the implementation
    named by ``layout``.
    """

    layout: str
    scheme: str
    in_features: int
    out_features: int
    tensors: tuple[Tensor, ...]
    bias: Tensor | None = None
    extra: dict[str, Any] = field(default_factory=dict)


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
    result: Tensor = dispatch.run("linear", x, packed, activation)
    return result


def gated_linear(x: Tensor, packed: PackedLinear, activation: str) -> Tensor:
    """A gated linear unit: ``gated_activation(linear(x, packed), activation)``.

    ``packed`` has 2n outputs: the gate's, which ``activation`` takes, and those it multiplies. In
    one kernel where there is one, which rounds the product alone. Returns (tokens, n); dtype of x.
    """
    result: Tensor = dispatch.run("gated_linear", x, packed, activation)
    return result

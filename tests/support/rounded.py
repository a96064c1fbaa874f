"""A model with the weights that another one has rounded, to tell rounding from arithmetic."""

from __future__ import annotations

from torch import Tensor, eye, nn, zeros

import atoll_kernels as kernels
from atoll.layers.linear import Linear


def take_over(plain: nn.Module, found: nn.Module, scheme: str, most: float) -> None:
    """Gives the layers of ``plain`` the weights that ``found`` computes with, in floats.

    Asserts that they are within ``most`` of its own, and the head, in 8 bits, within 0.01. Without
    a kernel of its sizes, a layer is in 8 bits instead of 4, and some processors round its inputs:
    then both models have the same layer, so that the arithmetic of ``scheme`` is compared.
    """
    rounded = dict(found.named_modules())
    for path, layer in plain.named_modules():
        other = rounded[path]
        if not isinstance(layer, Linear) or other.packed.scheme == "dense":
            continue
        weight = _weight(other)
        assert distance(weight, _weight(layer)) < (0.01 if path == "lm_head" else most)
        is_asked = other.packed.scheme == scheme
        layer.packed = kernels.pack_linear(weight, layer.packed.bias) if is_asked else other.packed


def distance(found: Tensor, expected: Tensor) -> float:
    """Of the root mean squares, the error's as a share of the expected values'."""
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def _weight(layer: Linear) -> Tensor:
    """What a packed layer multiplies by, (outputs, inputs)."""
    identity, nothing = eye(layer.in_features), zeros(1, layer.in_features)
    return (layer(identity) - layer(nothing)).t().contiguous()

"""Activations in plain torch."""

from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS


def activate(x: Tensor, activation: str) -> Tensor:
    return ACTIVATIONS[activation](x)


def gated_activation(x: Tensor, activation: str) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return ACTIVATIONS[activation](gate) * up

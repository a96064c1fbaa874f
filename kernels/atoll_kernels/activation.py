"""Pointwise activations and gated linear units."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from atoll_kernels import dispatch

# Keys are the names that config.json uses (transformers' ACT2FN).
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": lambda x: x.tanh(),
}


def activate(x: Tensor, activation: str) -> Tensor:
    """``activation`` of every element, by its config.json name."""
    result: Tensor = dispatch.run("activate", x, activation)
    return result


def gated_activation(x: Tensor, activation: str) -> Tensor:
    """``act(x[:, :n]) * x[:, n:]`` for x of shape (tokens, 2n); returns (tokens, n)."""
    result: Tensor = dispatch.run("gated_activation", x, activation)
    return result

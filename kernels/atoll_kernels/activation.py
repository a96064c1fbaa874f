"""Pointwise activations and gated linear units.

``gpt_oss`` is a gated unit alone: ``(up + 1) * gate * sigmoid(1.702 * gate)``, with gate clamped
to at most 7 and up to -7..7 (openai/gpt-oss, gpt_oss/torch/model.py, swiglu).
"""

from collections.abc import Callable
from enum import IntEnum
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from atoll_kernels import dispatch


class Activation(IntEnum):
    """Codes of activations, as in cpu/native/src/epilogue.h and gpu/kernels/activation.py."""

    NONE = 0
    GELU = 1
    GELU_TANH = 2
    RELU = 3
    SILU = 4
    TANH = 5
    GPT_OSS = 6
    RELU2 = 7
    QUICK_GELU = 8


GPT_OSS_LIMIT, GPT_OSS_ALPHA = 7.0, 1.702
QUICK_GELU_ALPHA = 1.702

# Names in config.json (transformers' ACT2FN), and of the gated unit; None: no activation.
BY_NAME: dict[str | None, Activation] = {
    None: Activation.NONE,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "relu2": Activation.RELU2,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "tanh": Activation.TANH,
    "gpt_oss": Activation.GPT_OSS,
    "quick_gelu": Activation.QUICK_GELU,
}
_FUNCTIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.GELU: F.gelu,
    Activation.GELU_TANH: partial(F.gelu, approximate="tanh"),
    Activation.RELU: F.relu,
    Activation.RELU2: lambda x: F.relu(x).square(),
    Activation.SILU: F.silu,
    Activation.TANH: lambda x: x.tanh(),
    Activation.QUICK_GELU: lambda x: x * (QUICK_GELU_ALPHA * x).sigmoid(),
}
# The pointwise ones.
ACTIVATIONS = {
    name: _FUNCTIONS[kind] for name, kind in BY_NAME.items() if name and kind in _FUNCTIONS
}


def activate(x: Tensor, activation: str) -> Tensor:
    """``activation`` of every element, by its config.json name."""
    result: Tensor = dispatch.run("activate", x, activation)
    return result


def gated_activation(x: Tensor, activation: str) -> Tensor:
    """``act(x[:, :n]) * x[:, n:]`` for x of shape (tokens, 2n), or ``gpt_oss`` of the two halves.

    Returns (tokens, n).
    """
    result: Tensor = dispatch.run("gated_activation", x, activation)
    return result


def gate_rows(x: Tensor, gate: Tensor, activation: str | None = "silu") -> Tensor:
    """``act(gate) * x``; both (tokens, features), rows may be strided. activation: None or "silu".

    Returns the same shape, contiguous.
    """
    result: Tensor = dispatch.run("gate_rows", x, gate, activation)
    return result

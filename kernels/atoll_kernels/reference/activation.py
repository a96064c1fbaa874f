"""Activations in plain torch."""

from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS, GPT_OSS_ALPHA, GPT_OSS_LIMIT


def activate(x: Tensor, activation: str) -> Tensor:
    return ACTIVATIONS[activation](x)


def gated_activation(x: Tensor, activation: str) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    if activation == "gpt_oss":
        gate, up = gate.clamp(max=GPT_OSS_LIMIT), up.clamp(-GPT_OSS_LIMIT, GPT_OSS_LIMIT)
        return (up + 1) * (gate * (gate * GPT_OSS_ALPHA).sigmoid())
    return ACTIVATIONS[activation](gate) * up


def gate_rows(x: Tensor, gate: Tensor, activation: str | None) -> Tensor:
    return x * (gate if activation is None else ACTIVATIONS[activation](gate))

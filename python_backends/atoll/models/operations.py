"""Which operations the layers of a model call, and what runs each of them on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from atoll.layers import gated_delta, mamba, mamba2, mlp_experts, plain_experts, qk_norm
from atoll.layers.attention import Attention, CrossAttention
from atoll.layers.attention_pooling import AttentionPooling
from atoll.layers.disentangled import DisentangledAttention
from atoll.layers.linear import Linear
from atoll.layers.mla import LatentAttention
from atoll.layers.moe import MixtureOfExperts
from atoll.layers.norm import LayerNorm, RMSNorm, UnitNorm
from atoll.layers.rotary import Rotary
from atoll.layers.short_convolution import ShortConvolution
from atoll_kernels import dispatch

_ATTENTION = (Attention, CrossAttention, LatentAttention)
# Of layers other than attention; a linear layer is run by what has packed it.
_OPS: dict[type[nn.Module], tuple[str, ...]] = {
    AttentionPooling: ("varlen_attention",),
    DisentangledAttention: ("disentangled_attention",),
    Linear: ("pack_linear",),
    LayerNorm: ("layer_norm",),
    qk_norm.HeadLayerNorm: ("layer_norm",),
    RMSNorm: ("rms_norm",),
    UnitNorm: ("rms_norm",),
    Rotary: ("apply_rope",),
    MixtureOfExperts: ("pack_experts",),
    mlp_experts.MLPMixture: ("route",),
    plain_experts.PlainMixture: ("route",),
    ShortConvolution: ("causal_conv",),
    gated_delta.GatedDeltaNet: ("gated_delta",),
    mamba.ChannelScan: ("selective_scan",),
    mamba2.HeadScan: ("selective_scan2",),
}
_SHOWN = {"pack_linear": "linear", "pack_experts": "experts"}


def operations(model: nn.Module, is_generator: bool) -> set[str]:
    """What its layers call, but for small steps between these.

    model: may be on the meta device.
    """
    return set(_called(model, is_generator))


def kernels(model: nn.Module, is_generator: bool) -> dict[str, str]:
    """The module of the first candidate for each operation of a model on this machine's device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        _SHOWN.get(op, op): dispatch.candidates(op, device)[0].__module__
        for op in sorted(operations(model, is_generator))
    }


def _called(model: nn.Module, is_generator: bool) -> Iterator[str]:
    for layer in model.modules():
        if isinstance(layer, _ATTENTION):
            yield "paged_attention" if is_generator else "varlen_attention"
        # The texts that others attend to are encoded whole.
        if isinstance(layer, CrossAttention):
            yield "varlen_attention"
        for kind, ops in _OPS.items():
            if isinstance(layer, kind):
                yield from ops

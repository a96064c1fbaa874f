"""LFM2, dense and with experts: gated short convolutions, and grouped-query attention every few.

Source: config fields and layer names of transformers' ``Lfm2ForCausalLM`` and
``Lfm2MoeForCausalLM``; Liquid AI 2025.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from atoll.errors import ConfigError
from atoll.layers import Attention, CausalLM, DecoderConfig, GatedMLP, RMSNorm
from atoll.layers.block import MixerBlock, PreNormBlock
from atoll.layers.gated_convolution import GatedConvolution
from atoll.layers.linear import Linear
from atoll.layers.moe import Float32Router, MixtureOfExperts
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import read_heads, whole_head_rope
from atoll.models.config_mamba import conv_width, layer_kinds, places
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions
from atoll.weights.weight_map import FirstOf, WeightMap
from atoll_kernels import Routing

WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    prefixes=("model.", ""),
    modules={
        "embed": "embed_tokens",
        "blocks.{i}.norm1": "layers.{i}.operator_norm",
        "blocks.{i}.mixer.in_proj": "layers.{i}.conv.in_proj",
        "blocks.{i}.mixer.conv": "layers.{i}.conv.conv",
        "blocks.{i}.mixer.out": "layers.{i}.conv.out_proj",
        "blocks.{i}.attention.qkv": (
            "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
            "layers.{i}.self_attn.v_proj",
        ),
        "blocks.{i}.attention.q_norm": "layers.{i}.self_attn.q_layernorm",
        "blocks.{i}.attention.k_norm": "layers.{i}.self_attn.k_layernorm",
        "blocks.{i}.attention.out": "layers.{i}.self_attn.out_proj",
        "blocks.{i}.norm2": "layers.{i}.ffn_norm",
        "blocks.{i}.mlp.gate_up": ("layers.{i}.feed_forward.w1", "layers.{i}.feed_forward.w3"),
        "blocks.{i}.mlp.down": "layers.{i}.feed_forward.w2",
        "blocks.{i}.mlp.router": "layers.{i}.feed_forward",
        "blocks.{i}.mlp.experts.{e}.gate_up": FirstOf(
            ("layers.{i}.feed_forward.experts.{e}.w1", "layers.{i}.feed_forward.experts.{e}.w3"),
            "layers.{i}.feed_forward.experts.gate_up_proj[{e}]",
        ),
        "blocks.{i}.mlp.experts.{e}.down": FirstOf(
            "layers.{i}.feed_forward.experts.{e}.w2",
            "layers.{i}.feed_forward.experts.down_proj[{e}]",
        ),
        "norm": "embedding_norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip


@dataclass(frozen=True)
class Experts:
    """Of the layers from ``first`` on. is_corrected: see ``atoll_kernels.route``."""

    first: int
    num_experts: int
    routing: Routing
    is_corrected: bool
    size: int


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. has_attention: of each layer; the others have convolutions."""

    conv_width: int
    conv_bias: bool
    has_attention: tuple[bool, ...]
    rope: RopeSpec
    experts: Experts | None

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling or a kind of layer that is not known."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        rope = whole_head_rope(f, heads, theta=1e6)
        has_experts = raw.get("model_type") == "lfm2_moe"
        size = f.size("intermediate_size") if has_experts else _dense_size(f)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=size,
            num_layers=num_layers,
            heads=heads,
            eps=f.number("norm_eps", default=1e-5),
            activation="silu",
            max_positions=rope.reach,
            tie_word_embeddings=f.flag("tie_embedding", "tie_word_embeddings", default=True),
            conv_width=conv_width(f, "conv_L_cache", 3),
            conv_bias=f.flag("conv_bias", default=False),
            has_attention=_has_attention(f, num_layers),
            rope=rope,
            experts=_experts(f) if has_experts else None,
        )

    @property
    def num_experts(self) -> int:
        """Of a layer that has experts."""
        return 0 if self.experts is None else self.experts.num_experts


def _dense_size(f: Fields) -> int:
    """Intermediate features: two thirds of what the file says, rounded up to a multiple."""
    size = f.size("block_ff_dim", "intermediate_size")
    if not f.flag("block_auto_adjust_ff_dim", default=True):
        return size
    size = int(2 * size / 3)
    factor = f.number("block_ffn_dim_multiplier", default=1.0)
    multiple = f.size("block_multiple_of", default=256)
    return -(-int(factor * size) // multiple) * multiple


def _has_attention(f: Fields, num_layers: int) -> tuple[bool, ...]:
    kinds = layer_kinds(f, "layer_types", num_layers, "full_attention", "conv")
    if kinds:
        return tuple(kind == "full_attention" for kind in kinds)
    if not f.has("full_attn_idxs"):
        raise ConfigError(f"{f.source} has no layer_types and no full_attn_idxs")
    attending = f.counts("full_attn_idxs")
    if any(layer >= num_layers for layer in attending):
        raise f.wrong(f"layers below num_hidden_layers, {num_layers}", "full_attn_idxs")
    return tuple(layer in attending for layer in range(num_layers))


def _experts(f: Fields) -> Experts:
    num_experts = f.size("num_experts", most=MAX_LAYERS)
    return Experts(
        first=f.count("num_dense_layers", default=2),
        num_experts=num_experts,
        routing=Routing(
            f.size("num_experts_per_tok", default=4, most=num_experts), "sigmoid",
            renormalize=f.flag("norm_topk_prob", default=True),
            scaling=f.number("routed_scaling_factor", default=1.0),
        ),
        is_corrected=f.flag("use_expert_bias", default=True),
        size=f.size("moe_intermediate_size"),
    )  # fmt: skip


class Model(CausalLM):
    """Pre-norm blocks of a convolution or an attention, and a gated MLP or experts."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)
        indices = places([not attends for attends in c.has_attention])

        def block(layer: int) -> nn.Module:
            norm1, norm2 = RMSNorm(c.hidden_size, c.eps), RMSNorm(c.hidden_size, c.eps)
            index, mlp = indices[layer], _feed_forward(c, layer)
            if not c.has_attention[layer]:
                mixer = GatedConvolution(c.hidden_size, c.conv_width, c.conv_bias, index=index)
                return MixerBlock(norm1, mixer, norm2, mlp)
            attention = Attention(
                c.hidden_size, c.heads, layer=layer - index, bias=False, rotary=rotary,
                qk_norms=(RMSNorm(c.heads.head_dim, c.eps), RMSNorm(c.heads.head_dim, c.eps)),
            )  # fmt: skip
            return PreNormBlock(norm1, attention, norm2, mlp)

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps))


def _feed_forward(c: Config, layer: int) -> GatedMLP | MixtureOfExperts:
    e = c.experts
    if e is None or layer < e.first:
        return GatedMLP(c.hidden_size, c.intermediate_size, c.activation)
    return MixtureOfExperts(
        c.hidden_size, e.size, e.num_experts, e.routing, c.activation,
        router=Router(c.hidden_size, e.num_experts, e.is_corrected),
    )  # fmt: skip


class Router(Float32Router):
    """A router whose corrections are ``expert_bias``, beside its matrix ``gate``."""

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads both; errors as in ``LayerTensors.get``."""
        options = replace(options, dtype=torch.float32)
        Linear.load(self, replace(group, source=f"{group.source}.gate"), options)
        if self.correction is None:
            group.refuse("expert_bias")
            return
        found = group.get("expert_bias", (self.out_features,)).to(options.device, options.dtype)
        self.correction = nn.Parameter(found, requires_grad=False)

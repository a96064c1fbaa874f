"""Granite 4: Mamba-2 layers and, every tenth, attention without positions; an MLP, or experts too.

Granite 3's factors hold here as well. The smallest models attend in every layer, with rotary
embeddings. Source: config fields and layer names of transformers' ``GraniteMoeHybridForCausalLM``;
IBM 2025.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from atoll.layers import Attention, CausalLM, DecoderConfig, GatedMLP, RMSNorm
from atoll.layers.block import MixerBlock, PreNormBlock
from atoll.layers.mamba2 import Mamba2, Mamba2Spec
from atoll.layers.moe import MixtureOfExperts
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import read_heads, whole_head_rope
from atoll.models.config_mamba import layer_kinds, places, read_hybrid_mamba2
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, WeightMap
from atoll_kernels import Routing

_MLP = {
    "gate_up": "layers.{i}.shared_mlp.input_linear",
    "down": "layers.{i}.shared_mlp.output_linear",
}

WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    prefixes=("model.", ""),
    modules={
        "embed": "embed_tokens",
        "blocks.{i}.norm1": "layers.{i}.input_layernorm",
        "blocks.{i}.mixer.in_proj": "layers.{i}.mamba.in_proj",
        "blocks.{i}.mixer.conv": "layers.{i}.mamba.conv1d",
        "blocks.{i}.mixer.scan": "layers.{i}.mamba",
        "blocks.{i}.mixer.norm": "layers.{i}.mamba.norm",
        "blocks.{i}.mixer.out": "layers.{i}.mamba.out_proj",
        "blocks.{i}.attention.qkv": (
            "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
            "layers.{i}.self_attn.v_proj",
        ),
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.norm2": "layers.{i}.post_attention_layernorm",
        "blocks.{i}.mlp.router": FirstOf(
            "layers.{i}.block_sparse_moe.router.layer", "layers.{i}.block_sparse_moe.router",
        ),
        "blocks.{i}.mlp.experts.{e}.gate_up": FirstOf(
            "layers.{i}.block_sparse_moe.input_linear.weight[{e}]",
            "layers.{i}.block_sparse_moe.experts.gate_up_proj[{e}]",
        ),
        "blocks.{i}.mlp.experts.{e}.down": FirstOf(
            "layers.{i}.block_sparse_moe.output_linear.weight[{e}]",
            "layers.{i}.block_sparse_moe.experts.down_proj[{e}]",
        ),
        **{f"blocks.{{i}}.mlp.shared.{name}": source for name, source in _MLP.items()},
        **{f"blocks.{{i}}.mlp.{name}": source for name, source in _MLP.items()},
        "norm": "norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip


@dataclass(frozen=True)
class Experts:
    """Beside every layer's MLP."""

    num_experts: int
    routing: Routing
    size: int


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. has_attention: of each layer. mamba: of the others.

    intermediate_size: of the MLP. rope: None for attention without positions. experts: None for a
    dense model. Logits are divided by ``logits_scaling``.
    """

    has_attention: tuple[bool, ...]
    mamba: Mamba2Spec | None
    attention_bias: bool
    rope: RopeSpec | None
    experts: Experts | None
    embedding_multiplier: float
    attention_multiplier: float
    residual_multiplier: float
    logits_scaling: float

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling or a kind of layer that is not known."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        kinds = layer_kinds(
            f, "layer_types", num_layers, "mamba", "attention", "linear_attention", "full_attention"
        )
        has_attention = tuple(k == "attention" or k == "full_attention" for k in kinds)
        has_attention = has_attention or (False,) * num_layers
        has_rope = f.only("position_embedding_type", "nope", "rope") == "rope"
        rope = whole_head_rope(f, heads) if has_rope else None
        positions = f.size("max_position_embeddings", default=2048)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("shared_intermediate_size", default=1024),
            num_layers=num_layers,
            heads=heads,
            eps=f.number("rms_norm_eps", default=1e-6),
            activation=f.only("hidden_act", "silu"),
            max_positions=positions if rope is None else rope.reach,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            has_attention=has_attention,
            mamba=None if all(has_attention) else read_hybrid_mamba2(f, hidden_size, None),
            attention_bias=f.flag("attention_bias", default=False),
            rope=rope,
            experts=_experts(f),
            embedding_multiplier=f.number("embedding_multiplier", default=1.0),
            attention_multiplier=f.number("attention_multiplier", default=1.0),
            residual_multiplier=f.number("residual_multiplier", default=1.0),
            logits_scaling=f.number("logits_scaling", default=1.0),
        )

    @property
    def num_experts(self) -> int:
        """Of a layer."""
        return 0 if self.experts is None else self.experts.num_experts


def _experts(f: Fields) -> Experts | None:
    num_experts = f.count("num_local_experts", default=8, most=MAX_LAYERS)
    if num_experts == 0:
        return None
    top_k = f.size("num_experts_per_tok", default=2, most=num_experts)
    return Experts(num_experts, Routing(top_k), f.size("intermediate_size"))


class Model(CausalLM):
    """Pre-norm blocks of a Mamba-2 layer or an attention, and an MLP, with experts beside it."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, None if config.rope is None else Rotary(config.rope)
        indices = places([not attends for attends in c.has_attention])

        def block(layer: int) -> nn.Module:
            norm1, norm2 = RMSNorm(c.hidden_size, c.eps), RMSNorm(c.hidden_size, c.eps)
            index, mlp = indices[layer], _feed_forward(c)
            if not c.has_attention[layer]:
                assert c.mamba is not None, "read where a layer needs it"
                mixer = Mamba2(c.hidden_size, c.mamba, index=index)
                return MixerBlock(norm1, mixer, norm2, mlp, c.residual_multiplier)
            attention = Attention(
                c.hidden_size, c.heads, layer=layer - index, bias=c.attention_bias,
                scale=c.attention_multiplier, rotary=rotary,
            )  # fmt: skip
            return PreNormBlock(norm1, attention, norm2, mlp, c.residual_multiplier)

        super().__init__(
            c, block, RMSNorm(c.hidden_size, c.eps), embedding_scale=c.embedding_multiplier,
            logit_scale=1 / c.logits_scaling,
        )  # fmt: skip


def _feed_forward(c: Config) -> GatedMLP | MixtureOfExperts:
    e, mlp = c.experts, GatedMLP(c.hidden_size, c.intermediate_size, c.activation)
    if e is None:
        return mlp
    return MixtureOfExperts(
        c.hidden_size, e.size, e.num_experts, e.routing, c.activation, shared=mlp
    )

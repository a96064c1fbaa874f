"""GLM-4.5, 4.6 and 4.7: grouped-query attention, half of each head rotated, DeepSeek V3's experts.

Source: config fields and layer names of transformers' ``Glm4MoeForCausalLM``; GLM-4.5 team 2025.
Files have a layer more, with an ``eh_proj``, for the prediction of several tokens; it is not used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers import Attention, CausalLM, DecoderConfig, RMSNorm
from atoll.layers.block import PreNormBlock
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_experts import FEED_FORWARD_WEIGHTS, Experts, read_experts
from atoll.models.config_fields import activation, check_equal_layers, check_width, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    extra_layers="layers.{i}.eh_proj",
    prefixes=("model.", ""),
    modules={
        "embed": "embed_tokens",
        "blocks.{i}.norm1": "layers.{i}.input_layernorm",
        "blocks.{i}.attention.qkv": (
            "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
            "layers.{i}.self_attn.v_proj",
        ),
        "blocks.{i}.attention.q_norm": "layers.{i}.self_attn.q_norm",
        "blocks.{i}.attention.k_norm": "layers.{i}.self_attn.k_norm",
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.norm2": "layers.{i}.post_attention_layernorm",
        **FEED_FORWARD_WEIGHTS,
        "norm": "norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json; the rotary part of a head is ``rope.dim`` wide."""

    qkv_bias: bool
    has_qk_norm: bool
    rope: RopeSpec
    experts: Experts

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling or a way of routing that is not known."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        check_equal_layers(f, num_layers)
        share = RopeSpec.partial(raw, "partial_rotary_factor", default=0.5)
        width = int(heads.head_dim * share)
        check_width(f, width, heads.head_dim, "partial_rotary_factor")
        rope = RopeSpec.from_hf(raw, width, is_partial=True)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=num_layers,
            heads=heads,
            eps=f.number("rms_norm_eps", default=1e-5),
            activation=activation(f, "hidden_act", default="silu"),
            max_positions=rope.reach,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            qkv_bias=f.flag("attention_bias", default=False),
            has_qk_norm=f.flag("use_qk_norm", default=False),
            rope=rope,
            experts=read_experts(f, "glm4_moe", num_layers),
        )

    @property
    def num_experts(self) -> int:
        """Of a layer that has experts."""
        return self.experts.num_experts


class Model(CausalLM):
    """Pre-norm blocks of grouped-query attention and a gated MLP, or experts with a shared one."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)

        def block(layer: int) -> PreNormBlock:
            norms = RMSNorm(c.heads.head_dim, c.eps), RMSNorm(c.heads.head_dim, c.eps)
            attention = Attention(
                c.hidden_size, c.heads, layer=layer, bias=c.qkv_bias, out_bias=False,
                rotary=rotary, qk_norms=norms if c.has_qk_norm else None,
            )  # fmt: skip
            mlp = c.experts.feed_forward(layer, c.hidden_size, c.intermediate_size, c.activation)
            return PreNormBlock(
                RMSNorm(c.hidden_size, c.eps), attention, RMSNorm(c.hidden_size, c.eps), mlp
            )

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps))

"""GLM-4: biases of q, k and v, rotation of neighbouring features in half of each head.

Source: config fields and layer names of transformers' ``GlmForCausalLM`` (GLM-4-9B of 2024) and
``Glm4ForCausalLM`` (0414), which also norms what attention and MLP give.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from atoll.layers import Attention, CausalLM, DecoderConfig, GatedMLP, RMSNorm
from atoll.layers.block import PreNormBlock, SandwichBlock
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import activation, check_width, read_heads
from atoll.weights.fused_qkv import unpaired_qkv
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import Reorder, WeightMap


def _rows(config: "Config") -> Tensor:
    return unpaired_qkv(*config.heads, config.rope.dim)


def _table(anchor: str, norms: Mapping[str, str]) -> WeightMap:
    return WeightMap(
        anchor=anchor,
        complete=("layers.",),
        prefixes=("model.", ""),
        modules={
            "embed": "embed_tokens",
            "blocks.{i}.norm1": "layers.{i}.input_layernorm",
            "blocks.{i}.attention.qkv": Reorder(
                ("layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
                 "layers.{i}.self_attn.v_proj"), _rows,
            ),
            "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
            "blocks.{i}.mlp.gate_up": "layers.{i}.mlp.gate_up_proj",
            "blocks.{i}.mlp.down": "layers.{i}.mlp.down_proj",
            **{f"blocks.{{i}}.{ours}": f"layers.{{i}}.{name}" for ours, name in norms.items()},
            "norm": "norm",
            "lm_head": "/lm_head",
        },
        tied={"lm_head": "embed"},
    )  # fmt: skip


WEIGHTS = (
    _table("layers.0.post_mlp_layernorm", {
        "norm2": "post_self_attn_layernorm", "norm3": "post_attention_layernorm",
        "norm4": "post_mlp_layernorm",
    }),
    _table("embed_tokens", {"norm2": "post_attention_layernorm"}),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json; the rotary part of a head is ``rope.dim`` wide."""

    has_output_norms: bool
    attention_bias: bool
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling that is not known."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        share = RopeSpec.partial(raw, "partial_rotary_factor", default=0.5)
        width = int(heads.head_dim * share)
        check_width(f, width, heads.head_dim, "partial_rotary_factor")
        rope = RopeSpec.from_hf(raw, width, is_partial=True)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=heads,
            eps=f.number("rms_norm_eps", default=1.5625e-7),
            activation=activation(f, "hidden_act", default="silu"),
            max_positions=rope.reach,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            has_output_norms=raw.get("model_type") == "glm4",
            attention_bias=f.flag("attention_bias", default=True),
            rope=rope,
        )


class Model(CausalLM):
    """Grouped-query attention and a gated MLP, normed before, and in GLM-4-0414 behind as well."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)

        def norm() -> RMSNorm:
            return RMSNorm(c.hidden_size, c.eps)

        def block(layer: int) -> PreNormBlock | SandwichBlock:
            attention = Attention(
                c.hidden_size, c.heads, layer=layer, bias=c.attention_bias, out_bias=False,
                rotary=rotary,
            )  # fmt: skip
            mlp = GatedMLP(c.hidden_size, c.intermediate_size, c.activation)
            if c.has_output_norms:
                return SandwichBlock(norm(), attention, norm(), norm(), mlp, norm())
            return PreNormBlock(norm(), attention, norm(), mlp)

        super().__init__(c, block, norm())

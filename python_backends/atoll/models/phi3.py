"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini: Llama with fused projections, a window or LongRoPE.

Source: config fields and layer names of transformers' ``Phi3ForCausalLM``; Abdin et al. 2024.
Phi-4-mini rotates three quarters of each head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers import Attention, CausalLM, DecoderConfig, GatedMLP, RMSNorm
from atoll.layers.block import PreNormBlock
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import activation, check_width, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    prefixes=("model.", ""),
    modules={
        "embed": "embed_tokens",
        "blocks.{i}.norm1": "layers.{i}.input_layernorm",
        "blocks.{i}.attention.qkv": "layers.{i}.self_attn.qkv_proj",
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.norm2": "layers.{i}.post_attention_layernorm",
        "blocks.{i}.mlp.gate_up": "layers.{i}.mlp.gate_up_proj",
        "blocks.{i}.mlp.down": "layers.{i}.mlp.down_proj",
        "norm": "norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json; the rotary part of a head is ``rope.dim`` wide."""

    sliding_window: int | None
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling that is not known."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        share = RopeSpec.partial(raw, "partial_rotary_factor", default=1.0)
        width = check_width(
            f, int(heads.head_dim * share), heads.head_dim, "partial_rotary_factor", "head_dim"
        )
        rope = RopeSpec.from_hf(raw, width, is_partial=True)
        window = f.size("sliding_window") if f.has("sliding_window") else None
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=heads,
            eps=f.number("rms_norm_eps", default=1e-5),
            activation=activation(f, "hidden_act", default="silu"),
            max_positions=rope.reach,
            # Phi-4-mini's is wider than its longest text.
            sliding_window=window if window is None or window < rope.reach else None,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            rope=rope,
        )


class Model(CausalLM):
    """Pre-norm blocks of grouped-query attention and a gated MLP."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)

        def block(layer: int) -> PreNormBlock:
            return PreNormBlock(
                RMSNorm(c.hidden_size, c.eps),
                Attention(
                    c.hidden_size, c.heads, layer=layer, bias=False, window=c.sliding_window,
                    rotary=rotary,
                ),
                RMSNorm(c.hidden_size, c.eps),
                GatedMLP(c.hidden_size, c.intermediate_size, c.activation),
            )  # fmt: skip

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps))

"""Llama 1 to 3.3, Code Llama, SmolLM2, Mistral and Ministral 3: RMSNorm, rotary, GQA, gated MLP.

Source: config fields and layer names of transformers' ``LlamaForCausalLM``,
``MistralForCausalLM`` and ``Ministral3ForCausalLM``; Touvron et al. 2023, Jiang et al. 2023
(sliding window). Mistral's newer models are parts of ``Mistral3ForConditionalGeneration``. NVIDIA's
``LlamaBidirectionalModel`` (llama_bidirec), of embedders, is Llama whose tokens see both sides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers import Attention, CausalLM, DecoderConfig, GatedMLP, RMSNorm
from atoll.layers.block import PreNormBlock
from atoll.layers.query_growth import GrowthSpec, QueryGrowth
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import (
    activation,
    check_equal_layers,
    read_heads,
    two_sided,
    whole_head_rope,
)
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import TEXT_PREFIXES, WeightMap

WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    prefixes=("model.", "", *TEXT_PREFIXES),
    modules={
        "embed": "embed_tokens",
        "blocks.{i}.norm1": "layers.{i}.input_layernorm",
        "blocks.{i}.attention.qkv": (
            "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
            "layers.{i}.self_attn.v_proj",
        ),
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.norm2": "layers.{i}.post_attention_layernorm",
        "blocks.{i}.mlp.gate_up": ("layers.{i}.mlp.gate_proj", "layers.{i}.mlp.up_proj"),
        "blocks.{i}.mlp.down": "layers.{i}.mlp.down_proj",
        "norm": "norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. sliding_window: Mistral's. query_growth: Ministral 3's."""

    sliding_window: int | None
    query_growth: GrowthSpec | None
    attention_bias: bool
    mlp_bias: bool
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling that is not known, and for layers that differ."""
        f, kind = Fields(raw), str(raw.get("model_type"))
        hidden_size = f.size("hidden_size")
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        rope = whole_head_rope(f, heads)
        check_equal_layers(f, num_layers)
        # Llama has no window, though files made from others' may keep the key.
        is_windowed = kind not in ("llama", "llama_bidirec") and f.has("sliding_window")
        window = f.size("sliding_window") if is_windowed else None
        # By its own code, whose configuration class says nothing of it.
        is_causal = kind != "llama_bidirec" and f.flag("is_causal", default=True)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=num_layers,
            heads=heads,
            eps=f.number("rms_norm_eps", default=1e-6),
            activation=activation(f, "hidden_act", default="silu"),
            max_positions=rope.reach,
            sliding_window=window if is_causal else two_sided((window,))[0],
            # Its classifier scores a mean of tokens, and divides by a temperature.
            **({"classifiers": ()} if kind == "llama_bidirec" else {}),
            query_growth=GrowthSpec.from_hf(raw) if kind == "ministral3" else None,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            is_causal=is_causal,
            attention_bias=f.flag("attention_bias", default=False),
            mlp_bias=f.flag("mlp_bias", default=False),
            rope=rope,
        )


class Model(CausalLM):
    """Pre-norm blocks of grouped-query attention and a gated MLP."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)
        growth = QueryGrowth(c.query_growth, c.max_positions) if c.query_growth else None

        def block(layer: int) -> PreNormBlock:
            return PreNormBlock(
                RMSNorm(c.hidden_size, c.eps),
                Attention(
                    c.hidden_size, c.heads, layer=layer, bias=c.attention_bias, causal=c.is_causal,
                    window=c.sliding_window, rotary=rotary, query_growth=growth,
                ),
                RMSNorm(c.hidden_size, c.eps),
                GatedMLP(
                    c.hidden_size, c.intermediate_size, c.activation, c.mlp_bias, c.mlp_bias
                ),
            )  # fmt: skip

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps))

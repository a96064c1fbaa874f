"""StarCoder2: rotary, grouped-query attention, LayerNorm, an MLP without a gate, biases.

Source: config fields and layer names of transformers' ``Starcoder2ForCausalLM``; Lozhkov et al.
2024.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers import MLP, Attention, CausalLM, DecoderConfig, LayerNorm
from atoll.layers.block import PreNormBlock
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import activation, read_heads, whole_head_rope
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    prefixes=("model.", ""),
    modules={
        "embed": "embed_tokens",
        "blocks.{i}.norm1": "layers.{i}.input_layernorm",
        "blocks.{i}.attention.qkv": (
            "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
            "layers.{i}.self_attn.v_proj",
        ),
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.norm2": "layers.{i}.post_attention_layernorm",
        "blocks.{i}.mlp.up": "layers.{i}.mlp.c_fc",
        "blocks.{i}.mlp.down": "layers.{i}.mlp.c_proj",
        "norm": "norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. bias: of every linear layer but the head."""

    sliding_window: int | None
    bias: bool
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling that is not known."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        rope = whole_head_rope(f, heads)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=heads,
            eps=f.number("norm_epsilon", default=1e-5),
            activation=activation(f, "hidden_act", default="gelu_pytorch_tanh"),
            max_positions=rope.reach,
            sliding_window=f.size("sliding_window") if f.has("sliding_window") else None,
            bias=f.flag("use_bias", default=True),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            rope=rope,
        )


class Model(CausalLM):
    """Pre-norm blocks of grouped-query attention and an MLP."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)

        def block(layer: int) -> PreNormBlock:
            return PreNormBlock(
                LayerNorm(c.hidden_size, c.eps),
                Attention(
                    c.hidden_size, c.heads, layer=layer, bias=c.bias, window=c.sliding_window,
                    rotary=rotary,
                ),
                LayerNorm(c.hidden_size, c.eps),
                MLP(c.hidden_size, c.intermediate_size, c.activation, c.bias),
            )  # fmt: skip

        super().__init__(c, block, LayerNorm(c.hidden_size, c.eps))

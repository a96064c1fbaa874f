"""OLMo 2 and 3: norms of what attention and MLP give, and of all queries and keys of a token.

Source: config fields and layer names of transformers' ``Olmo2ForCausalLM`` and
``Olmo3ForCausalLM``; OLMo Team 2024, 2025. In OLMo 3, three of four layers have a window, and a
scaling is that of the others' rotation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers import Attention, CausalLM, DecoderConfig, GatedMLP, RMSNorm
from atoll.layers.block import OutputNormBlock
from atoll.layers.qk_norm import wide_norms
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import (
    activation,
    layer_ropes,
    layer_windows,
    read_heads,
    whole_head_rope,
)
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    prefixes=("model.", ""),
    modules={
        "embed": "embed_tokens",
        "blocks.{i}.attention.qkv": (
            "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
            "layers.{i}.self_attn.v_proj",
        ),
        "blocks.{i}.attention.q_norm": "layers.{i}.self_attn.q_norm",
        "blocks.{i}.attention.k_norm": "layers.{i}.self_attn.k_norm",
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.norm1": "layers.{i}.post_attention_layernorm",
        "blocks.{i}.mlp.gate_up": ("layers.{i}.mlp.gate_proj", "layers.{i}.mlp.up_proj"),
        "blocks.{i}.mlp.down": "layers.{i}.mlp.down_proj",
        "blocks.{i}.norm2": "layers.{i}.post_feedforward_layernorm",
        "norm": "norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. windows: of each layer. local_rope: of layers with a window."""

    attention_bias: bool
    windows: tuple[int | None, ...]
    rope: RopeSpec
    local_rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling or a kind of attention that is not known."""
        f, is_second = Fields(raw), raw.get("model_type") == "olmo2"
        hidden_size = f.size("hidden_size")
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        rope = local_rope = whole_head_rope(f, heads) if is_second else None
        if rope is None or local_rope is None:
            rope, local_rope = layer_ropes(f, heads, 5e5, 5e5, "rope_theta")
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
            attention_bias=f.flag("attention_bias", default=False),
            windows=(None,) * num_layers if is_second else _windows(f, num_layers),
            rope=rope,
            local_rope=local_rope,
        )


def _windows(f: Fields, num_layers: int) -> tuple[int | None, ...]:
    window = f.size("sliding_window") if f.has("sliding_window") else None
    return layer_windows(f, num_layers, window, lambda layer: (layer + 1) % 4 != 0)


class Model(CausalLM):
    """Blocks that normalise what they add, and norms as wide as all heads."""

    def __init__(self, config: Config) -> None:
        c = config
        rotary, local_rotary = Rotary(c.rope), Rotary(c.local_rope)

        def block(layer: int) -> OutputNormBlock:
            window = c.windows[layer]
            attention = Attention(
                c.hidden_size, c.heads, layer=layer, bias=c.attention_bias, window=window,
                rotary=rotary if window is None else local_rotary,
                qk_norms=wide_norms(*c.heads, c.eps),
            )  # fmt: skip
            mlp = GatedMLP(c.hidden_size, c.intermediate_size, c.activation)
            return OutputNormBlock(
                attention, RMSNorm(c.hidden_size, c.eps), mlp, RMSNorm(c.hidden_size, c.eps)
            )

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps))

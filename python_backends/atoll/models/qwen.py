"""Qwen2, Qwen2.5 and Qwen3: Llama with biases of q, k and v, or with norms of queries and keys.

Source: config fields and layer names of transformers' ``Qwen2ForCausalLM`` and
``Qwen3ForCausalLM``; Yang et al. 2024 and 2025. Layers from ``max_window_layers`` on have a
sliding window where ``use_sliding_window`` says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers import Attention, CausalLM, DecoderConfig, GatedMLP, RMSNorm
from atoll.layers.block import PreNormBlock
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import activation, layer_windows, read_heads, whole_head_rope
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
        "blocks.{i}.attention.q_norm": "layers.{i}.self_attn.q_norm",
        "blocks.{i}.attention.k_norm": "layers.{i}.self_attn.k_norm",
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
    """Read from config.json. windows: of each layer."""

    qkv_bias: bool
    out_bias: bool
    has_qk_norm: bool
    windows: tuple[int | None, ...]
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling or a kind of attention that is not known."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        rope = whole_head_rope(f, heads)
        is_third = raw.get("model_type") == "qwen3"
        has_bias = is_third and f.flag("attention_bias", default=False)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=num_layers,
            heads=heads,
            eps=f.number("rms_norm_eps", default=1e-6),
            activation=activation(f, "hidden_act", default="silu"),
            max_positions=rope.reach,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            qkv_bias=has_bias or not is_third,
            out_bias=has_bias,
            has_qk_norm=is_third,
            windows=_windows(f, num_layers),
            rope=rope,
        )


def _windows(f: Fields, num_layers: int) -> tuple[int | None, ...]:
    is_used = f.flag("use_sliding_window", default=False)
    first = f.count("max_window_layers", default=28)
    window = f.size("sliding_window") if is_used and f.has("sliding_window") else None
    names = ("sliding_window", "use_sliding_window")
    return layer_windows(f, num_layers, window, lambda layer: layer >= first, names)


class Model(CausalLM):
    """Pre-norm blocks of grouped-query attention and a gated MLP."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)

        def block(layer: int) -> PreNormBlock:
            norms = RMSNorm(c.heads.head_dim, c.eps), RMSNorm(c.heads.head_dim, c.eps)
            attention = Attention(
                c.hidden_size, c.heads, layer=layer, bias=c.qkv_bias, out_bias=c.out_bias,
                window=c.windows[layer], rotary=rotary,
                qk_norms=norms if c.has_qk_norm else None,
            )  # fmt: skip
            mlp = GatedMLP(c.hidden_size, c.intermediate_size, c.activation)
            return PreNormBlock(
                RMSNorm(c.hidden_size, c.eps), attention, RMSNorm(c.hidden_size, c.eps), mlp
            )

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps))

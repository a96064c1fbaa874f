"""Cohere's Command R (Cohere 1) and Command R7B, A (Cohere 2): attention and MLP of one LayerNorm.

Source: config fields and layer names of transformers' ``CohereForCausalLM`` and
``Cohere2ForCausalLM``. Neighbouring features are rotated together. Of Cohere 2, layers with a
window rotate, and those that see everything do not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from atoll.layers import Attention, CausalLM, DecoderConfig, GatedMLP, LayerNorm, parallel
from atoll.layers.block import ParallelBlock
from atoll.layers.qk_norm import HeadLayerNorm
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import activation, layer_windows, read_heads, whole_head_rope
from atoll.weights.fused_qkv import unpaired_qkv
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import Reorder, WeightMap


def _rows(config: "Config") -> Tensor:
    return unpaired_qkv(*config.heads, config.heads.head_dim)


WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    prefixes=("model.", ""),
    modules={
        "embed": "embed_tokens",
        "blocks.{i}.norm1": "layers.{i}.input_layernorm",
        "blocks.{i}.attention.qkv": Reorder(
            ("layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
             "layers.{i}.self_attn.v_proj"), _rows,
        ),
        "blocks.{i}.attention.q_norm": "layers.{i}.self_attn.q_norm",
        "blocks.{i}.attention.k_norm": "layers.{i}.self_attn.k_norm",
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
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

    attention_bias: bool
    has_qk_norm: bool
    logit_scale: float
    windows: tuple[int | None, ...]
    has_rope: tuple[bool, ...]
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling or a kind of attention that is not known."""
        f = Fields(raw)
        is_first = raw.get("model_type") == "cohere"
        f.only("use_parallel_block", True)
        f.only("use_qk_norm", False, *([True] if is_first else []))
        hidden_size = f.size("hidden_size")
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        rope = whole_head_rope(f, heads, theta=500000.0 if is_first else 10000.0)
        windows = (None,) * num_layers if is_first else _windows(f, num_layers)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=num_layers,
            heads=heads,
            eps=f.number("layer_norm_eps", default=1e-5),
            activation=activation(f, "hidden_act", default="silu"),
            max_positions=rope.reach,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            attention_bias=f.flag("attention_bias", default=False),
            has_qk_norm=is_first and f.flag("use_qk_norm", default=False, nullable=True),
            logit_scale=f.number("logit_scale", default=0.0625, above=None),
            windows=windows,
            has_rope=tuple(is_first or window is not None for window in windows),
            rope=rope,
        )


def _windows(f: Fields, num_layers: int) -> tuple[int | None, ...]:
    pattern = f.size("sliding_window_pattern", default=4)
    window = f.size("sliding_window") if f.has("sliding_window") else None
    return layer_windows(f, num_layers, window, lambda layer: (layer + 1) % pattern != 0)


class Model(CausalLM):
    """Attention and MLP of the same normalised input; tied, scaled scores."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)
        query, kv = parallel.heads(c.heads.num_heads, c.heads.num_kv_heads)

        def head_norm(heads: parallel.Part) -> HeadLayerNorm:
            return HeadLayerNorm(heads, c.heads.head_dim, c.eps, is_paired=True)

        def norm() -> LayerNorm:
            return LayerNorm(c.hidden_size, c.eps, bias=False)

        def block(layer: int) -> ParallelBlock:
            attention = Attention(
                c.hidden_size, c.heads, layer=layer, bias=c.attention_bias,
                window=c.windows[layer], rotary=rotary if c.has_rope[layer] else None,
                qk_norms=(head_norm(query), head_norm(kv)) if c.has_qk_norm else None,
            )  # fmt: skip
            mlp = GatedMLP(c.hidden_size, c.intermediate_size, c.activation)
            return ParallelBlock(norm(), attention, None, mlp)

        super().__init__(c, block, norm(), logit_scale=c.logit_scale)

"""SmolLM3: Llama whose every fourth layer has no rotary embedding.

Source: config fields and layer names of transformers' ``SmolLM3ForCausalLM``; Bakouch et al. 2025,
Yang et al. 2025 (layers without positions).
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
    """Read from config.json. has_rope, windows: of each layer."""

    attention_bias: bool
    mlp_bias: bool
    has_rope: tuple[bool, ...]
    windows: tuple[int | None, ...]
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling or a kind of attention that is not known."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        rope = whole_head_rope(f, heads, theta=2e6)
        has_rope = _has_rope(f, num_layers)
        is_windowed = f.flag("use_sliding_window", default=False) and f.has("sliding_window")
        window = f.size("sliding_window") if is_windowed else None
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=num_layers,
            heads=heads,
            eps=f.number("rms_norm_eps", default=1e-6),
            activation=activation(f, "hidden_act", default="silu"),
            max_positions=rope.reach,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            attention_bias=f.flag("attention_bias", default=False),
            mlp_bias=f.flag("mlp_bias", default=False),
            has_rope=has_rope,
            windows=layer_windows(
                f, num_layers, window, lambda layer: not has_rope[layer],
                ("sliding_window", "use_sliding_window"),
            ),
            rope=rope,
        )  # fmt: skip


def _has_rope(f: Fields, num_layers: int) -> tuple[bool, ...]:
    """Whether each layer rotates, by its 1 or 0 in ``no_rope_layers``, or but for every fourth."""
    if not f.has("no_rope_layers"):
        interval = f.size("no_rope_layer_interval", default=4)
        return tuple((layer + 1) % interval != 0 for layer in range(num_layers))
    flags = f.raw["no_rope_layers"]
    is_list = isinstance(flags, list) and all(type(n) is int and n in (0, 1) for n in flags)
    if not is_list or len(flags) < num_layers:
        expected = f"a 1 or 0 for each of num_hidden_layers, {num_layers}"
        raise f.wrong(expected, "no_rope_layers")
    return tuple(map(bool, flags))


class Model(CausalLM):
    """Pre-norm blocks of grouped-query attention and a gated MLP."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)

        def block(layer: int) -> PreNormBlock:
            return PreNormBlock(
                RMSNorm(c.hidden_size, c.eps),
                Attention(
                    c.hidden_size, c.heads, layer=layer, bias=c.attention_bias,
                    window=c.windows[layer], rotary=rotary if c.has_rope[layer] else None,
                ),
                RMSNorm(c.hidden_size, c.eps),
                GatedMLP(
                    c.hidden_size, c.intermediate_size, c.activation, c.mlp_bias, c.mlp_bias
                ),
            )  # fmt: skip

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps))

"""GPT-J: attention and MLP in parallel over one norm, partial rotary of neighbouring features.

Source: config fields and layer names of transformers' ``GPTJForCausalLM``; Wang & Komatsuzaki 2021.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from atoll.layers import MLP, Attention, CausalLM, DecoderConfig, LayerNorm
from atoll.layers.block import ParallelBlock
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import activation, check_width, read_heads
from atoll.weights.fused_qkv import unpaired_qkv
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import Reorder, WeightMap


def _rows(config: "Config") -> Tensor:
    return unpaired_qkv(*config.heads, config.rope.dim)


WEIGHTS = WeightMap(
    anchor="wte",
    complete=("h.",),
    buffers=(".attn.bias",),
    prefixes=("transformer.", ""),
    modules={
        "embed": "wte",
        "blocks.{i}.norm1": "h.{i}.ln_1",
        "blocks.{i}.attention.qkv": Reorder(
            ("h.{i}.attn.q_proj", "h.{i}.attn.k_proj", "h.{i}.attn.v_proj"), _rows
        ),
        "blocks.{i}.attention.out": "h.{i}.attn.out_proj",
        "blocks.{i}.mlp.up": "h.{i}.mlp.fc_in",
        "blocks.{i}.mlp.down": "h.{i}.mlp.fc_out",
        "norm": "ln_f",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json; the rotary part of a head is ``rope.dim`` wide."""

    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling that is not known."""
        f = Fields(raw)
        hidden_names = ("n_embd", "hidden_size")
        hidden_size = f.size(*hidden_names)
        heads = read_heads(f, hidden_size, hidden_names, ("n_head", "num_attention_heads"))
        width = f.size("rotary_dim", default=64)
        check_width(f, width, heads.head_dim, "rotary_dim")
        positions = f.size("n_positions", "max_position_embeddings", default=2048)
        # Its files say nothing of rope; a scaling is the server's setting.
        asked = {key: raw[key] for key in ("rope_scaling",) if key in raw}
        rope = RopeSpec.from_hf(asked, width, max_positions=positions, is_partial=True)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("n_inner", default=4 * hidden_size, nullable=True),
            num_layers=f.size("n_layer", "num_hidden_layers", most=MAX_LAYERS),
            heads=heads,
            eps=f.number("layer_norm_epsilon", default=1e-5),
            activation=activation(f, "activation_function", default="gelu_new"),
            max_positions=rope.reach,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            rope=rope,
        )


class Model(CausalLM):
    """Attention and MLP of the same normalised input; a head with a bias."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)

        def block(layer: int) -> ParallelBlock:
            attention = Attention(c.hidden_size, c.heads, layer=layer, bias=False, rotary=rotary)
            mlp = MLP(c.hidden_size, c.intermediate_size, c.activation)
            return ParallelBlock(LayerNorm(c.hidden_size, c.eps), attention, None, mlp)

        super().__init__(c, block, LayerNorm(c.hidden_size, c.eps), head_bias=True)

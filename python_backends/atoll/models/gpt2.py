"""GPT-2: learned positions, one projection for queries, keys and values, transposed matrices.

Source: config fields and layer names of transformers' ``GPT2LMHeadModel``; Radford et al. 2019.
The first files have no prefix, fine-tuned ones have ``transformer.``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers import MLP, Attention, CausalLM, DecoderConfig, LayerNorm
from atoll.layers.block import PreNormBlock
from atoll.layers.embedding import Embedding
from atoll.models.config_fields import activation, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import Transposed, WeightMap

WEIGHTS = WeightMap(
    anchor="wte",
    complete=("h.",),
    buffers=(".attn.bias",),
    prefixes=("transformer.", ""),
    modules={
        "embed": "wte",
        "positions": "wpe",
        "blocks.{i}.norm1": "h.{i}.ln_1",
        "blocks.{i}.attention.qkv": Transposed("h.{i}.attn.c_attn"),
        "blocks.{i}.attention.out": Transposed("h.{i}.attn.c_proj"),
        "blocks.{i}.norm2": "h.{i}.ln_2",
        "blocks.{i}.mlp.up": Transposed("h.{i}.mlp.c_fc"),
        "blocks.{i}.mlp.down": Transposed("h.{i}.mlp.c_proj"),
        "norm": "ln_f",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. scales: of each layer's scores."""

    scales: tuple[float, ...]

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for cross-attention, which no generator of texts alone has."""
        f = Fields(raw)
        f.only("add_cross_attention", False)
        hidden_names = ("n_embd", "hidden_size")
        hidden_size = f.size(*hidden_names)
        heads = read_heads(f, hidden_size, hidden_names, ("n_head", "num_attention_heads"))
        num_layers = f.size("n_layer", "num_hidden_layers", most=MAX_LAYERS)
        scale = heads.head_dim**-0.5 if f.flag("scale_attn_weights", default=True) else 1.0
        by_layer = f.flag("scale_attn_by_inverse_layer_idx", default=False)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("n_inner", default=4 * hidden_size, nullable=True),
            num_layers=num_layers,
            heads=heads,
            eps=f.number("layer_norm_epsilon", default=1e-5),
            activation=activation(f, "activation_function", default="gelu_new"),
            max_positions=f.size("n_positions", "max_position_embeddings", default=1024),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            scales=tuple(scale / (i + 1) if by_layer else scale for i in range(num_layers)),
        )


class Model(CausalLM):
    """Pre-norm blocks; learned positions."""

    def __init__(self, config: Config) -> None:
        c = config

        def block(layer: int) -> PreNormBlock:
            return PreNormBlock(
                LayerNorm(c.hidden_size, c.eps),
                Attention(c.hidden_size, c.heads, layer=layer, scale=c.scales[layer]),
                LayerNorm(c.hidden_size, c.eps),
                MLP(c.hidden_size, c.intermediate_size, c.activation),
            )

        positions = Embedding(c.max_positions, c.hidden_size)
        super().__init__(c, block, LayerNorm(c.hidden_size, c.eps), positions=positions)

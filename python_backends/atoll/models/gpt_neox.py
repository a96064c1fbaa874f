"""GPT-NeoX and Pythia: partial rotary, parallel residual, fused QKV per head.

Source: config fields and layer names of transformers' ``GPTNeoXForCausalLM``; Black et al. 2022.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers import MLP, Attention, CausalLM, DecoderConfig, LayerNorm
from atoll.layers.block import ParallelBlock, PreNormBlock
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import activation, check_width, read_heads
from atoll.weights.fused_qkv import grouped_qkv
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, Reorder, WeightMap

WEIGHTS = WeightMap(
    anchor="embed_in",
    complete=("layers.",),
    buffers=(".attention.bias",),
    prefixes=("gpt_neox.", ""),
    modules={
        "embed": "embed_in",
        "blocks.{i}.norm1": "layers.{i}.input_layernorm",
        "blocks.{i}.attention.qkv": Reorder(
            "layers.{i}.attention.query_key_value",
            lambda c: grouped_qkv(*c.heads),
        ),
        "blocks.{i}.attention.out": "layers.{i}.attention.dense",
        "blocks.{i}.norm2": "layers.{i}.post_attention_layernorm",
        "blocks.{i}.mlp.up": "layers.{i}.mlp.dense_h_to_4h",
        "blocks.{i}.mlp.down": "layers.{i}.mlp.dense_4h_to_h",
        "norm": "final_layer_norm",
        # transformers 5 may save it under the name that other families have.
        "lm_head": FirstOf("/embed_out", "/lm_head"),
    },
    tied={"lm_head": "embed"},
    input_scales={"blocks.{i}.mlp.down": "layers.{i}.mlp.act"},
)


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json; the rotary part of a head is ``rope.dim`` wide."""

    is_parallel: bool
    attention_bias: bool
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling that is not known."""
        f = Fields(raw)
        f.only("is_decoder", True, False)
        hidden_size = f.size("hidden_size")
        heads = read_heads(f, hidden_size)
        share = RopeSpec.partial(raw, "rotary_pct", default=0.25)
        width = check_width(f, int(heads.head_dim * share), heads.head_dim, "rotary_pct")
        theta = f.number("rotary_emb_base", default=10000.0, nullable=True, above=1.0)
        rope = RopeSpec.from_hf(raw, width, theta, is_partial=True)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=heads,
            eps=f.number("layer_norm_eps", default=1e-5),
            activation=activation(f, "hidden_act", default="gelu"),
            max_positions=rope.reach,
            is_parallel=f.flag("use_parallel_residual", default=True),
            attention_bias=f.flag("attention_bias", default=True),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            rope=rope,
        )


class Model(CausalLM):
    """Attention and MLP over two norms of the same input, or one after the other."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)
        order = ParallelBlock if c.is_parallel else PreNormBlock

        def block(layer: int) -> ParallelBlock | PreNormBlock:
            return order(
                LayerNorm(c.hidden_size, c.eps),
                Attention(
                    c.hidden_size, c.heads, layer=layer, bias=c.attention_bias, rotary=rotary
                ),
                LayerNorm(c.hidden_size, c.eps),
                MLP(c.hidden_size, c.intermediate_size, c.activation),
            )

        super().__init__(c, block, LayerNorm(c.hidden_size, c.eps))

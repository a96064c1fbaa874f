"""BLOOM: ALiBi, LayerNorm after the embedding, fused QKV per head, tanh GELU.

Source: config fields and layer names of transformers' ``BloomForCausalLM``; BigScience 2022. The
hub's own files have no ``transformer.`` prefix, and old configs say n_embed and n_head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from atoll.layers import MLP, Attention, Batch, CausalLM, DecoderConfig, LayerNorm
from atoll.layers.block import PreNormBlock, States
from atoll.models.config_fields import read_heads
from atoll.weights.fused_qkv import grouped_qkv
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import Reorder, WeightMap
from atoll_kernels.attention import alibi_slopes

WEIGHTS = WeightMap(
    anchor="word_embeddings",
    complete=("h.",),
    prefixes=("transformer.", ""),
    modules={
        "embed": "word_embeddings",
        "embed_norm": "word_embeddings_layernorm",
        "blocks.{i}.norm1": "h.{i}.input_layernorm",
        "blocks.{i}.attention.qkv": Reorder(
            "h.{i}.self_attention.query_key_value",
            lambda c: grouped_qkv(*c.heads),
        ),
        "blocks.{i}.attention.out": "h.{i}.self_attention.dense",
        "blocks.{i}.norm2": "h.{i}.post_attention_layernorm",
        "blocks.{i}.mlp.up": "h.{i}.mlp.dense_h_to_4h",
        "blocks.{i}.mlp.down": "h.{i}.mlp.dense_4h_to_h",
        "norm": "ln_f",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
    input_scales={"blocks.{i}.mlp.down": "h.{i}.mlp.gelu_impl"},
)


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. ``residual_after_norm`` takes the residual from the norm's output."""

    residual_after_norm: bool

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        f = Fields(raw)
        hidden_names = ("hidden_size", "n_embed", "n_embd")
        hidden_size = f.size(*hidden_names)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=4 * hidden_size,
            num_layers=f.size("n_layer", "num_hidden_layers", most=MAX_LAYERS),
            heads=read_heads(f, hidden_size, hidden_names, ("n_head", "num_attention_heads")),
            eps=f.number("layer_norm_epsilon", default=1e-5),
            activation="gelu_pytorch_tanh",
            max_positions=f.size("seq_length", default=2048, nullable=True),
            residual_after_norm=f.flag("apply_residual_connection_post_layernorm", default=False),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
        )


class AfterNormBlock(PreNormBlock):
    """Attention and MLP are added to the norms' outputs, not to what was normalised."""

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> States:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h = self.norm1(x, residual)
        h = self.norm2(self.reduce(self.attention(h, batch)), h)
        return self.reduce(self.mlp(h)), h


class Model(CausalLM):
    """Pre-norm blocks; a norm behind the embedding."""

    def __init__(self, config: Config) -> None:
        c, slopes = config, alibi_slopes(config.heads.num_heads)
        order = AfterNormBlock if c.residual_after_norm else PreNormBlock

        def block(layer: int) -> PreNormBlock:
            return order(
                LayerNorm(c.hidden_size, c.eps),
                Attention(c.hidden_size, c.heads, layer=layer, alibi_slopes=slopes),
                LayerNorm(c.hidden_size, c.eps),
                MLP(c.hidden_size, c.intermediate_size, c.activation),
            )

        super().__init__(c, block, LayerNorm(c.hidden_size, c.eps))
        self.embed_norm = LayerNorm(c.hidden_size, c.eps)

    def embedded(self, batch: Batch) -> Tensor:
        """What the first block sees, (tokens, hidden)."""
        out: Tensor = self.embed_norm(super().embedded(batch))
        return out

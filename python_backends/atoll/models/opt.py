"""OPT and Galactica: learned positions offset by two, separate QKV, ReLU or GELU.

Source: config fields and layer names of transformers' ``OPTForCausalLM``; Zhang et al. 2022,
Taylor et al. 2022 (Galactica). OPT-350m normalises after the sum and projects its embeddings in and
out; large Galactica has no biases and norms without weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from atoll.layers import MLP, Attention, Batch, CausalLM, DecoderConfig, LayerNorm
from atoll.layers.block import PostNormBlock, PreNormBlock
from atoll.layers.embedding import Embedding, TokenEmbedding
from atoll.layers.linear import Head, Linear
from atoll.layers.norm import NoNorm
from atoll.models.config_fields import activation, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    prefixes=("model.decoder.", "decoder."),
    modules={
        "embed": "embed_tokens",
        "positions": "embed_positions",
        "project_in": "project_in",
        "project_out": "project_out",
        "blocks.{i}.norm1": "layers.{i}.self_attn_layer_norm",
        "blocks.{i}.attention.qkv": (
            "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
            "layers.{i}.self_attn.v_proj",
        ),
        "blocks.{i}.attention.out": "layers.{i}.self_attn.out_proj",
        "blocks.{i}.norm2": "layers.{i}.final_layer_norm",
        "blocks.{i}.mlp.up": "layers.{i}.fc1",
        "blocks.{i}.mlp.down": "layers.{i}.fc2",
        "norm": "final_layer_norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip

# Rows 0 and 1 of the position table are never used: ids count from the padding id on.
POSITION_OFFSET = 2


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json; ``embed_size`` differs from ``hidden_size`` in OPT-350m."""

    embed_size: int
    is_pre_norm: bool
    has_final_norm: bool
    bias: bool
    affine: bool

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        f = Fields(raw)
        f.only("learned_embeddings", True)
        hidden_size = f.size("hidden_size")
        is_pre_norm = f.flag("do_layer_norm_before", default=True)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            embed_size=f.size("word_embed_proj_dim", default=hidden_size, nullable=True),
            intermediate_size=f.size("ffn_dim"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=read_heads(f, hidden_size),
            eps=1e-5,
            activation=activation(f, "activation_function", default="relu"),
            max_positions=f.size("max_position_embeddings"),
            is_pre_norm=is_pre_norm,
            has_final_norm=is_pre_norm and not f.flag("_remove_final_layer_norm", default=False),
            bias=f.flag("enable_bias", default=True),
            affine=f.flag("layer_norm_elementwise_affine", default=True),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
        )


class Model(CausalLM):
    """The norms stand before attention and MLP, or after the sums (350m)."""

    def __init__(self, config: Config) -> None:
        c = config

        def norm() -> LayerNorm:
            return LayerNorm(c.hidden_size, c.eps, affine=c.affine)

        def block(layer: int) -> nn.Module:
            attention = Attention(c.hidden_size, c.heads, layer=layer, bias=c.bias)
            mlp = MLP(c.hidden_size, c.intermediate_size, c.activation, c.bias)
            if c.is_pre_norm:
                return PreNormBlock(norm(), attention, norm(), mlp)
            return PostNormBlock(attention, norm(), mlp, norm())

        last = norm() if c.has_final_norm else NoNorm()
        positions = Embedding(c.max_positions + POSITION_OFFSET, c.hidden_size)
        super().__init__(c, block, last, positions=positions)
        self.embed = TokenEmbedding(c.vocab_size, c.embed_size)
        self.lm_head = Head(c.embed_size, c.vocab_size)
        projects = c.embed_size != c.hidden_size
        self.project_in = Linear(c.embed_size, c.hidden_size, bias=False) if projects else None
        self.project_out = Linear(c.hidden_size, c.embed_size, bias=False) if projects else None

    def embedded(self, batch: Batch) -> Tensor:
        """What the first block sees, (tokens, hidden)."""
        x: Tensor = self.embed(batch.input_ids)
        x = x if self.project_in is None else self.project_in(x)
        assert self.positions is not None
        out: Tensor = x + self.positions(batch.positions + POSITION_OFFSET)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (rows, hidden) -> (rows, vocab) float32."""
        return super().logits(hidden if self.project_out is None else self.project_out(hidden))

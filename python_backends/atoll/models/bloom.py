"""BLOOM: ALiBi, LayerNorm after the embedding, fused QKV per head, tanh GELU.

Source: config fields and layer names of transformers' ``BloomForCausalLM``; BigScience 2022. The
hub's own files have no ``transformer.`` prefix, and old configs say n_embed and n_head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from atoll.layers import Batch, Embedding, LayerNorm, Linear, PagedAttention
from atoll.layers.batch import CacheSpec
from atoll.models.config_fields import heads
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
        "blocks.{i}.qkv": Reorder(
            "h.{i}.self_attention.query_key_value",
            lambda c: grouped_qkv(c.num_heads, c.num_heads, c.head_dim),
        ),
        "blocks.{i}.out": "h.{i}.self_attention.dense",
        "blocks.{i}.norm2": "h.{i}.post_attention_layernorm",
        "blocks.{i}.up": "h.{i}.mlp.dense_h_to_4h",
        "blocks.{i}.down": "h.{i}.mlp.dense_4h_to_h",
        "norm": "ln_f",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
    input_scales={"blocks.{i}.down": "h.{i}.mlp.gelu_impl"},
)


@dataclass(frozen=True)
class Config:
    """Read from config.json. ``residual_after_norm`` takes the residual from the norm's output."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    eps: float
    max_positions: int
    residual_after_norm: bool
    tie_word_embeddings: bool

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        f = Fields(raw)
        hidden_names = ("hidden_size", "n_embed", "n_embd")
        hidden_size = f.size(*hidden_names)
        num_heads, _, head_dim = heads(
            f, hidden_size, hidden_names, ("n_head", "num_attention_heads")
        )
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            num_layers=f.size("n_layer", "num_hidden_layers", most=MAX_LAYERS),
            num_heads=num_heads,
            head_dim=head_dim,
            eps=f.number("layer_norm_epsilon", default=1e-5),
            max_positions=f.size("seq_length", default=2048, nullable=True),
            residual_after_norm=f.flag("apply_residual_connection_post_layernorm", default=False),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
        )


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c = config
        self.residual_after_norm = c.residual_after_norm
        self.norm1 = LayerNorm(c.hidden_size, c.eps)
        self.qkv = Linear(c.hidden_size, 3 * c.hidden_size)
        self.attention = PagedAttention(
            layer, c.num_heads, c.num_heads, c.head_dim, alibi_slopes=alibi_slopes(c.num_heads)
        )
        self.out = Linear(c.hidden_size, c.hidden_size)
        self.norm2 = LayerNorm(c.hidden_size, c.eps)
        self.up = Linear(c.hidden_size, 4 * c.hidden_size)
        self.down = Linear(4 * c.hidden_size, c.hidden_size)

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> tuple[Tensor, Tensor]:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h, residual = self.norm1.add(x, residual)
        residual = h if self.residual_after_norm else residual
        q, k, v = self.attention.split(self.qkv(h))
        h, residual = self.norm2.add(self.out(self.attention(q, k, v, batch)), residual)
        residual = h if self.residual_after_norm else residual
        return self.down(self.up(h, "gelu_pytorch_tanh")), residual


class Model(nn.Module):
    """``forward`` gives hidden states of the new tokens, ``logits`` the scores of chosen rows."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.embed_norm = LayerNorm(config.hidden_size, config.eps)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.norm = LayerNorm(config.hidden_size, config.eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden), normalised."""
        x, residual = self.embed_norm(self.embed(batch.input_ids)), None
        for block in self.blocks:
            x, residual = block(x, residual, batch)
        out: Tensor = self.norm(x, residual)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (rows, hidden) -> (rows, vocab) float32."""
        out: Tensor = self.lm_head(hidden)
        return out.float()

    def cache_specs(self) -> list[CacheSpec]:
        """What a token needs in the KV cache."""
        c = self.config
        return [CacheSpec(c.num_heads, c.head_dim)] * c.num_layers

"""GPT-NeoX and Pythia: partial rotary, parallel residual, fused QKV per head.

Source: config fields and layer names of transformers' ``GPTNeoXForCausalLM``; Black et al. 2022.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from atoll.layers import Batch, Embedding, LayerNorm, Linear, PagedAttention, Rotary
from atoll.layers.batch import CacheSpec
from atoll.layers.rotary import RopeSpec
from atoll.models.config_fields import activation, check_width, heads
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
        "blocks.{i}.qkv": Reorder(
            "layers.{i}.attention.query_key_value",
            lambda c: grouped_qkv(c.num_heads, c.num_heads, c.head_dim),
        ),
        "blocks.{i}.out": "layers.{i}.attention.dense",
        "blocks.{i}.norm2": "layers.{i}.post_attention_layernorm",
        "blocks.{i}.up": "layers.{i}.mlp.dense_h_to_4h",
        "blocks.{i}.down": "layers.{i}.mlp.dense_4h_to_h",
        "norm": "final_layer_norm",
        # transformers 5 may save it under the name that other families have.
        "lm_head": FirstOf("/embed_out", "/lm_head"),
    },
    tied={"lm_head": "embed"},
    input_scales={"blocks.{i}.down": "layers.{i}.mlp.act"},
)


@dataclass(frozen=True)
class Config:
    """Read from config.json; the rotary part of a head is ``rope.dim`` wide."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    eps: float
    activation: str
    max_positions: int
    is_parallel: bool
    attention_bias: bool
    tie_word_embeddings: bool
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling that is not known."""
        f = Fields(raw)
        f.only("is_decoder", True, False)
        hidden_size = f.size("hidden_size")
        num_heads, _, head_dim = heads(f, hidden_size)
        share = RopeSpec.partial(raw, "rotary_pct", default=0.25)
        width = check_width(f, int(head_dim * share), head_dim, "rotary_pct")
        theta = f.number("rotary_emb_base", default=10000.0, nullable=True, above=1.0)
        rope = RopeSpec.from_hf(raw, width, theta, is_partial=True)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            num_heads=num_heads,
            head_dim=head_dim,
            eps=f.number("layer_norm_eps", default=1e-5),
            activation=activation(f, "hidden_act", default="gelu"),
            max_positions=rope.reach,
            is_parallel=f.flag("use_parallel_residual", default=True),
            attention_bias=f.flag("attention_bias", default=True),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            rope=rope,
        )


class Block(nn.Module):
    """Attention and MLP over two norms of the same input, or one after the other."""

    def __init__(self, config: Config, layer: int, rotary: Rotary) -> None:
        super().__init__()
        c = config
        self.activation, self.is_parallel, self.rotary = c.activation, c.is_parallel, rotary
        self.norm1 = LayerNorm(c.hidden_size, c.eps)
        self.qkv = Linear(c.hidden_size, 3 * c.hidden_size, bias=c.attention_bias)
        self.attention = PagedAttention(layer, c.num_heads, c.num_heads, c.head_dim)
        self.out = Linear(c.hidden_size, c.hidden_size, bias=c.attention_bias)
        self.norm2 = LayerNorm(c.hidden_size, c.eps)
        self.up = Linear(c.hidden_size, c.intermediate_size)
        self.down = Linear(c.intermediate_size, c.hidden_size)

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> tuple[Tensor, Tensor]:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h, residual = self.norm1.add(x, residual)
        q, k, v = self.attention.split(self.qkv(h))
        attended = self.out(self.attention(q, k, v, batch, self.rotary(batch)))
        if self.is_parallel:
            return attended + self.down(self.up(self.norm2(residual), self.activation)), residual
        h, residual = self.norm2.add(attended, residual)
        return self.down(self.up(h, self.activation)), residual


class Model(nn.Module):
    """``forward`` gives hidden states of the new tokens, ``logits`` the scores of chosen rows."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        rotary = Rotary(config.rope)
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, i, rotary) for i in range(config.num_layers))
        self.norm = LayerNorm(config.hidden_size, config.eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden), normalised."""
        x, residual = self.embed(batch.input_ids), None
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

"""GPTBigCode: StarCoder, and SantaCoder in its own layout or converted; learned positions.

Source: config fields and layer names of transformers' ``GPTBigCodeForCausalLM``; Li et al. 2023,
Ben Allal et al. 2023 (SantaCoder). The repository bigcode/santacoder calls itself gpt2, stores
its matrices transposed (GPT-2's Conv1D) and splits the attention projection in two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atoll.layers import Batch, Embedding, LayerNorm, Linear, PagedAttention
from atoll.layers.batch import CacheSpec
from atoll.models.config_fields import activation, heads
from atoll.weights.fused_qkv import grouped_qkv
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, Reorder, Source, Transposed, WeightMap


def _rows(config: "Config") -> Tensor:
    """Multi-query files hold [q; k; v] as we do; the others interleave the heads."""
    if config.num_kv_heads == 1:
        return torch.arange((config.num_heads + 2) * config.head_dim)
    return grouped_qkv(config.num_heads, config.num_heads, config.head_dim)


def _matrix(source: Source) -> Source:
    return Transposed(source, when=lambda config: config.is_conv1d)


WEIGHTS = WeightMap(
    anchor="wte",
    complete=("h.",),
    buffers=(".attn.bias",),
    prefixes=("transformer.", ""),
    modules={
        "embed": "wte",
        "positions": "wpe",
        "blocks.{i}.norm1": "h.{i}.ln_1",
        "blocks.{i}.qkv": FirstOf(
            Reorder(_matrix("h.{i}.attn.c_attn"), _rows),
            _matrix(("h.{i}.attn.q_attn", "h.{i}.attn.kv_attn")),
        ),
        "blocks.{i}.out": _matrix("h.{i}.attn.c_proj"),
        "blocks.{i}.norm2": "h.{i}.ln_2",
        "blocks.{i}.up": _matrix("h.{i}.mlp.c_fc"),
        "blocks.{i}.down": _matrix("h.{i}.mlp.c_proj"),
        "norm": "ln_f",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
    input_scales={"blocks.{i}.down": "h.{i}.mlp.act"},
)


@dataclass(frozen=True)
class Config:
    """Read from config.json; ``is_conv1d`` is SantaCoder's own layout."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    activation: str
    max_positions: int
    is_conv1d: bool
    tie_word_embeddings: bool

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for GPT-2 attention options that no BigCode checkpoint uses."""
        f = Fields(raw)
        f.only("scale_attn_weights", True)
        f.only("scale_attn_by_inverse_layer_idx", False)
        f.only("add_cross_attention", False)
        is_conv1d = raw.get("model_type") == "gpt2"
        head_type = f.only("attention_head_type", "multiquery", "multihead")
        is_multi_query = f.flag("multi_query", default=True)
        is_multi_query = head_type == "multiquery" if is_conv1d else is_multi_query
        hidden_names = ("n_embd", "hidden_size")
        hidden_size = f.size(*hidden_names)
        num_heads, _, head_dim = heads(
            f, hidden_size, hidden_names, ("n_head", "num_attention_heads")
        )
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("n_inner", default=4 * hidden_size, nullable=True),
            num_layers=f.size("n_layer", "num_hidden_layers", most=MAX_LAYERS),
            num_heads=num_heads,
            num_kv_heads=1 if is_multi_query else num_heads,
            head_dim=head_dim,
            eps=f.number("layer_norm_epsilon", default=1e-5),
            activation=activation(f, "activation_function", default="gelu_pytorch_tanh"),
            max_positions=f.size("n_positions", "max_position_embeddings"),
            is_conv1d=is_conv1d,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
        )


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c = config
        self.activation = c.activation
        self.norm1 = LayerNorm(c.hidden_size, c.eps)
        width, kv_width = c.num_heads * c.head_dim, 2 * c.num_kv_heads * c.head_dim
        self.qkv = Linear(c.hidden_size, width + kv_width, rows=(width, kv_width))
        self.attention = PagedAttention(layer, c.num_heads, c.num_kv_heads, c.head_dim)
        self.out = Linear(c.hidden_size, c.hidden_size)
        self.norm2 = LayerNorm(c.hidden_size, c.eps)
        self.up = Linear(c.hidden_size, c.intermediate_size)
        self.down = Linear(c.intermediate_size, c.hidden_size)

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> tuple[Tensor, Tensor]:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h, residual = self.norm1.add(x, residual)
        q, k, v = self.attention.split(self.qkv(h))
        h, residual = self.norm2.add(self.out(self.attention(q, k, v, batch)), residual)
        return self.down(self.up(h, self.activation)), residual


class Model(nn.Module):
    """``forward`` gives hidden states of the new tokens, ``logits`` the scores of chosen rows."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.positions = Embedding(config.max_positions, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.norm = LayerNorm(config.hidden_size, config.eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden), normalised."""
        x, residual = self.embed(batch.input_ids) + self.positions(batch.positions), None
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
        return [CacheSpec(c.num_kv_heads, c.head_dim)] * c.num_layers

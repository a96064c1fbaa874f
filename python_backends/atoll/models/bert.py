"""BERT, RoBERTa, XLM-RoBERTa and CamemBERT: learned positions, post-LayerNorm, exact GELU; packed.

Source: layer names of transformers' ``BertModel`` and ``RobertaModel``; Devlin et al. 2018, Liu et
al. 2019. RoBERTa and its descendants count positions from pad_token_id + 1 and have one segment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atoll.layers import Batch, Embedding, LayerNorm, Linear, PackedAttention
from atoll.models.config_fields import heads, known_activation
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="embeddings.word_embeddings",
    complete=("encoder.layer.",),
    # The last three: a wrapped model's, torch's DataParallel's and sentence-transformers' own.
    prefixes=(
        "", "bert.", "roberta.", "camembert.", "xlm-roberta.", "model.", "module.", "0.auto_model.",
    ),
    modules={
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
        "blocks.{i}.qkv": (
            "encoder.layer.{i}.attention.self.query", "encoder.layer.{i}.attention.self.key",
            "encoder.layer.{i}.attention.self.value",
        ),
        "blocks.{i}.out": "encoder.layer.{i}.attention.output.dense",
        "blocks.{i}.norm1": "encoder.layer.{i}.attention.output.LayerNorm",
        "blocks.{i}.up": "encoder.layer.{i}.intermediate.dense",
        "blocks.{i}.down": "encoder.layer.{i}.output.dense",
        "blocks.{i}.norm2": "encoder.layer.{i}.output.LayerNorm",
    },
)  # fmt: skip


# Model types whose position table begins after the padding token's id.
_OFFSET_TYPES = ("roberta", "xlm-roberta", "camembert")
# Other names of one and the same activation.
_ACTIVATIONS = {"gelu_python": "gelu"}


@dataclass(frozen=True)
class Config:
    """Read from config.json. ``position_offset``: the table's row of a text's first token."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    position_offset: int
    num_token_types: int
    eps: float
    activation: str
    tie_word_embeddings: bool

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for positions that are not absolute, and for a causal model."""
        f = Fields(raw)
        f.only("position_embedding_type", "absolute")
        f.only("is_decoder", False)
        f.only("add_cross_attention", False)
        named = f.text("hidden_act", default="gelu")
        vocab_size, hidden_size = f.size("vocab_size"), f.size("hidden_size")
        offset = 0
        if f.raw.get("model_type") in _OFFSET_TYPES:
            offset = f.token("pad_token_id", vocab_size=vocab_size, default=1) + 1
        max_positions = f.size("max_position_embeddings")
        if max_positions <= offset:
            raise f.wrong(f"more than pad_token_id and 1, {offset}", "max_position_embeddings")
        return cls(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            num_heads=heads(f, hidden_size).num_heads,
            max_positions=max_positions,
            position_offset=offset,
            num_token_types=f.size("type_vocab_size", default=2),
            eps=f.number("layer_norm_eps", default=1e-12),
            activation=known_activation(f, _ACTIVATIONS.get(named, named), "hidden_act"),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
        )


class Block(nn.Module):
    """Attention and MLP, each followed by LayerNorm of the sum."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = config
        self.activation = c.activation
        self.qkv = Linear(c.hidden_size, 3 * c.hidden_size)
        self.attention = PackedAttention(c.num_heads, c.hidden_size // c.num_heads)
        self.out = Linear(c.hidden_size, c.hidden_size)
        self.norm1 = LayerNorm(c.hidden_size, c.eps)
        self.up = Linear(c.hidden_size, c.intermediate_size)
        self.down = Linear(c.intermediate_size, c.hidden_size)
        self.norm2 = LayerNorm(c.hidden_size, c.eps)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden)."""
        x = self.norm1(self.out(self.attention(self.qkv(x), batch)), x)
        out: Tensor = self.norm2(self.down(self.up(x, self.activation)), x)
        return out


class Model(nn.Module):
    """Hidden states of packed tokens; pooling and heads are the caller's."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.words = Embedding(config.vocab_size, config.hidden_size)
        self.positions = Embedding(config.max_positions, config.hidden_size)
        self.token_types = Embedding(config.num_token_types, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, config.eps)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))

    @property
    def max_length(self) -> int:
        """Tokens in the longest sequence."""
        return self.config.max_positions - self.config.position_offset

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden)."""
        types = batch.token_type_ids
        # Tokenizers of models with a single segment may number the second text of a pair 1.
        is_single = types is None or self.config.num_token_types == 1
        segments = self.token_types.weight[0] if is_single else self.token_types(types)
        words = self.words(batch.input_ids) + segments
        x: Tensor = self.norm(words, self.positions(self._positions(batch)))
        for block in self.blocks:
            x = block(x, batch)
        return x

    def _positions(self, batch: Batch) -> Tensor:
        """Rows of the position table, (tokens,).

        RoBERTa's are counted from the ids: a padding token, which a text may spell or end with, is
        not counted, and its row is its id.
        """
        offset = self.config.position_offset
        if not offset:
            return batch.positions
        is_word = batch.input_ids.ne(offset - 1).long()
        before = is_word.cumsum(0) - is_word
        firsts = torch.arange(len(before), device=before.device) - batch.positions
        # Not before[firsts]: a graph cannot repeat what may be a mask.
        return (before - before.index_select(0, firsts) + 1) * is_word + (offset - 1)

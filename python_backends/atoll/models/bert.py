"""BERT, RoBERTa, XLM-RoBERTa and CamemBERT: learned positions, post-LayerNorm, exact GELU; packed.

Source: layer names of transformers' ``BertModel`` and ``RobertaModel``; Devlin et al. 2018, Liu et
al. 2019. RoBERTa and its descendants count positions from pad_token_id + 1 and have one segment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atoll.layers import Embedding, LayerNorm, Linear, PackedAttention, PackedBatch
from atoll.models.fields import only
from atoll.weights.table import Weights

WEIGHTS = Weights(
    anchor="embeddings.word_embeddings",
    complete="encoder.layer.",
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

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for positions that are not absolute, and for a causal model."""
        only(raw, "position_embedding_type", "absolute")
        only(raw, "is_decoder", False)
        activation = raw.get("hidden_act", "gelu")
        has_offset = raw.get("model_type") in _OFFSET_TYPES
        return cls(
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            num_layers=raw["num_hidden_layers"],
            num_heads=raw["num_attention_heads"],
            max_positions=raw["max_position_embeddings"],
            position_offset=raw.get("pad_token_id", 1) + 1 if has_offset else 0,
            num_token_types=raw.get("type_vocab_size", 2),
            eps=raw.get("layer_norm_eps", 1e-12),
            activation=_ACTIVATIONS.get(activation, activation),
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

    def forward(self, x: Tensor, batch: PackedBatch) -> Tensor:
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

    def forward(self, batch: PackedBatch) -> Tensor:
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

    def _positions(self, batch: PackedBatch) -> Tensor:
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
        # Not before[firsts]: a tape cannot repeat what may be a mask.
        return (before - before.index_select(0, firsts) + 1) * is_word + (offset - 1)

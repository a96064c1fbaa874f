"""The trunk of an encoder of the BERT kind; an architecture says which blocks and positions."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atoll.layers.attention import Attention, Heads
from atoll.layers.batch import Batch
from atoll.layers.block import PostNormBlock
from atoll.layers.embedding import Embedding
from atoll.layers.head_layouts import (
    TOKEN_CLASSIFIER,
    ClassifierLayout,
    MaskedLanguageLayout,
    ProjectionLayout,
)
from atoll.layers.linear import Linear
from atoll.layers.mlp import MLP
from atoll.layers.norm import LayerNorm
from atoll.layers.relative import RelativeBias


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """What the config of every encoder has. max_length: tokens of the longest text.

    num_token_types: segments of a pair that have vectors; 0: none has.
    embedding_size: width of the vectors of words, positions and segments, if they are projected
    to the hidden size; None: they are not.
    classifiers, token_classifiers, masked_language: the heads that its checkpoints may have; the
    first whose tensors are in the file is used. vector_projection: what an embedder's vectors go
    through, by config.json.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    heads: Heads
    max_length: int
    num_token_types: int
    eps: float
    activation: str
    tie_word_embeddings: bool
    embedding_size: int | None = None
    classifiers: tuple[ClassifierLayout, ...] = ()
    token_classifiers: tuple[ClassifierLayout, ...] = (TOKEN_CLASSIFIER,)
    masked_language: tuple[MaskedLanguageLayout, ...] = ()
    vector_projection: ProjectionLayout | None = None


class EncoderTrunk(nn.Module):
    """Hidden states of whole texts; pooling and heads are the caller's."""

    def __init__(
        self, config: TrunkConfig, block: Callable[[int], nn.Module], num_blocks: int | None = None
    ) -> None:
        """block: makes the block of a layer, see ``layers.block``.

        num_blocks: one for each layer if None; fewer where layers share theirs.
        """
        super().__init__()
        self.config = config
        width = config.embedding_size or config.hidden_size
        self.words = Embedding(config.vocab_size, width)
        self.token_types: Embedding | None = None
        if config.num_token_types:
            self.token_types = Embedding(config.num_token_types, width)
        self.norm = LayerNorm(width, config.eps)
        self.projection: Linear | None = None
        if config.embedding_size is not None:
            self.projection = Linear(width, config.hidden_size)
        count = config.num_layers if num_blocks is None else num_blocks
        self.blocks = nn.ModuleList(map(block, range(count)))

    @property
    def max_length(self) -> int:
        """Tokens in the longest sequence."""
        return self.config.max_length

    def tokens(self, batch: Batch) -> Tensor:
        """The vectors of words and segments, (tokens, embedding_size)."""
        words: Tensor = self.words(batch.input_ids)
        if self.token_types is None:
            return words
        types = batch.token_type_ids
        return words + (self.token_types.weight[0] if types is None else self.token_types(types))

    def embedded(self, batch: Batch) -> Tensor:
        """The normalised vectors of tokens, (tokens, embedding_size)."""
        out: Tensor = self.norm(self.tokens(batch))
        return out

    def first(self, batch: Batch) -> Tensor:
        """What the first block sees, (tokens, hidden)."""
        x = self.embedded(batch)
        return x if self.projection is None else self.projection(x)

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden)."""
        x, residual = self.first(batch), None
        for block in self.blocks:
            x, residual = block(x, residual, batch)
        return x


@dataclass(frozen=True, kw_only=True)
class PositionedConfig(TrunkConfig):
    """Of a trunk with learned positions. position_offset: row of a text's first token in the table.

    Where it is not 0, positions are counted as in RoBERTa, whose padding token has the id before.
    """

    position_offset: int = 0


class PositionedTrunk(EncoderTrunk):
    """A trunk with a table of positions, and BERT's blocks unless an architecture gives others."""

    def __init__(
        self,
        config: PositionedConfig,
        block: Callable[[int], nn.Module] | None = None,
        num_blocks: int | None = None,
    ) -> None:
        super().__init__(config, block or (lambda layer: bert_block(config, layer)), num_blocks)
        self.offset = config.position_offset
        width = config.embedding_size or config.hidden_size
        self.positions = Embedding(config.max_length + config.position_offset, width)

    def embedded(self, batch: Batch) -> Tensor:
        """The normalised vectors of tokens and their positions, (tokens, embedding_size)."""
        positions = self.positions(self._positions(batch))
        out: Tensor = self.norm(self.tokens(batch), positions)
        return out

    def _positions(self, batch: Batch) -> Tensor:
        """Rows of the position table, (tokens,).

        RoBERTa's are counted from the ids: a padding token, which a text may spell or end with, is
        not counted, and its row is its id.
        """
        if not self.offset:
            return batch.positions
        is_word = batch.input_ids.ne(self.offset - 1).long()
        before = is_word.cumsum(0) - is_word
        firsts = torch.arange(len(before), device=before.device) - batch.positions
        # Not before[firsts]: a graph cannot repeat what may be a mask.
        return (before - before.index_select(0, firsts) + 1) * is_word + (self.offset - 1)


def bert_block(
    config: TrunkConfig, layer: int, relative_bias: RelativeBias | None = None
) -> PostNormBlock:
    """A block of BERT: norms after attention and MLP, every token sees all others of its text."""
    c = config
    return PostNormBlock(
        Attention(c.hidden_size, c.heads, layer=layer, causal=False, relative_bias=relative_bias),
        LayerNorm(c.hidden_size, c.eps),
        MLP(c.hidden_size, c.intermediate_size, c.activation),
        LayerNorm(c.hidden_size, c.eps),
    )

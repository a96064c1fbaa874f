"""The trunk of an encoder of the BERT kind; an architecture says which blocks and positions."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from atoll.layers.attention import Heads
from atoll.layers.batch import Batch
from atoll.layers.embedding import Embedding
from atoll.layers.head_layouts import ClassifierLayout, MaskedLanguageLayout
from atoll.layers.norm import LayerNorm


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """What the config of every encoder has. max_length: tokens of the longest text.

    num_token_types: segments of a pair that have vectors; 0: none has. classifiers,
    masked_language: the heads that its checkpoints may have; the first whose tensors are in the
    file is used.
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
    classifiers: tuple[ClassifierLayout, ...] = ()
    masked_language: tuple[MaskedLanguageLayout, ...] = ()


class EncoderTrunk(nn.Module):
    """Hidden states of whole texts; pooling and heads are the caller's."""

    def __init__(self, config: TrunkConfig, block: Callable[[int], nn.Module]) -> None:
        """block: makes the block of a layer, see ``layers.block``."""
        super().__init__()
        self.config = config
        self.words = Embedding(config.vocab_size, config.hidden_size)
        self.token_types: Embedding | None = None
        if config.num_token_types:
            self.token_types = Embedding(config.num_token_types, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, config.eps)
        self.blocks = nn.ModuleList(map(block, range(config.num_layers)))

    @property
    def max_length(self) -> int:
        """Tokens in the longest sequence."""
        return self.config.max_length

    def tokens(self, batch: Batch) -> Tensor:
        """The vectors of words, and of segments if there are any, (tokens, hidden)."""
        words: Tensor = self.words(batch.input_ids)
        if self.token_types is None:
            return words
        types = batch.token_type_ids
        # Tokenizers of models with a single segment may number the second text of a pair 1.
        is_single = types is None or self.config.num_token_types == 1
        segments = self.token_types.weight[0] if is_single else self.token_types(types)
        return words + segments

    def embedded(self, batch: Batch) -> Tensor:
        """What the first block sees, (tokens, hidden)."""
        out: Tensor = self.norm(self.tokens(batch))
        return out

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden)."""
        x, residual = self.embedded(batch), None
        for block in self.blocks:
            x, residual = block(x, residual, batch)
        return x

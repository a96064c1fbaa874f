"""A causal language model from its parts; an architecture says which."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from atoll.layers.attention import Heads
from atoll.layers.batch import Batch, CacheSpec, StateSpec
from atoll.layers.embedding import Embedding, TokenEmbedding
from atoll.layers.head_layouts import TOKEN_CLASSIFIER, ClassifierLayout, MaskedLanguageLayout
from atoll.layers.linear import Head
from atoll.weights.weight_map import WeightMap

# ``...ForSequenceClassification`` of every decoder in transformers.
_CLASSIFIERS = (
    ClassifierLayout(
        weights=WeightMap(anchor="score", modules={"classifier": "score"}),
        pooling="last-token",
        has_dense=False,
        classifier_bias=False,
    ),
)
# ``...ForTokenClassification``: newer decoders' head is called as that for texts, with a bias.
_TOKEN_CLASSIFIERS = (
    ClassifierLayout(
        weights=WeightMap(anchor="score", modules={"classifier": "score"}), has_dense=False
    ),
    TOKEN_CLASSIFIER,
)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What the config of every decoder has; a family adds its own.

    max_positions: tokens of the longest text. is_causal: whether tokens see those before them
    alone; an embedder's may see all. classifiers, token_classifiers, masked_language: see
    ``TrunkConfig``.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    heads: Heads
    eps: float
    activation: str
    max_positions: int
    tie_word_embeddings: bool
    is_causal: bool = True
    classifiers: tuple[ClassifierLayout, ...] = _CLASSIFIERS
    token_classifiers: tuple[ClassifierLayout, ...] = _TOKEN_CLASSIFIERS
    masked_language: tuple[MaskedLanguageLayout, ...] = ()


class CausalLM(nn.Module):
    """``forward`` gives hidden states of the new tokens, ``logits`` the scores of chosen rows."""

    def __init__(
        self,
        config: DecoderConfig,
        block: Callable[[int], nn.Module],
        norm: nn.Module,
        *,
        positions: Embedding | None = None,
        head_bias: bool = False,
        embedding_scale: float = 1.0,
        logit_scale: float = 1.0,
        logit_softcap: float | None = None,
    ) -> None:
        """block: makes the block of a layer, see ``layers.block``. positions: learned ones.

        embedding_scale, logit_scale: what the words' vectors and the scores are multiplied by.
        logit_softcap: the scores become ``softcap * tanh(score / softcap)`` after that.
        """
        super().__init__()
        self.config = config
        self.embedding_scale, self.logit_scale = embedding_scale, logit_scale
        self.logit_softcap = logit_softcap
        self.embed = TokenEmbedding(config.vocab_size, config.hidden_size)
        self.positions = positions
        self.blocks = nn.ModuleList(map(block, range(config.num_layers)))
        self.norm = norm
        self.lm_head = Head(config.hidden_size, config.vocab_size, head_bias)

    @property
    def max_length(self) -> int:
        """Tokens in the longest text."""
        return self.config.max_positions

    def embedded(self, batch: Batch) -> Tensor:
        """What the first block sees, (tokens, hidden)."""
        x: Tensor = self.embed(batch.input_ids)
        if self.embedding_scale != 1.0:
            x = x * self.embedding_scale
        return x if self.positions is None else x + self.positions(batch.positions)

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden), normalised."""
        x, residual = self.embedded(batch), None
        for block in self.blocks:
            x, residual = block(x, residual, batch)
        out: Tensor = self.norm(x, residual)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (rows, hidden) -> (rows, vocab) float32."""
        scores: Tensor = self.lm_head(hidden).float()
        if self.logit_scale != 1.0:
            scores = scores * self.logit_scale
        if self.logit_softcap is None:
            return scores
        return self.logit_softcap * (scores / self.logit_softcap).tanh()

    def cache_specs(self) -> list[CacheSpec]:
        """What a token needs in the KV cache, by layer that attends."""
        blocks: list[Any] = list(self.blocks)
        return [block.attention.cache_spec for block in blocks if hasattr(block, "attention")]

    def state_specs(self) -> list[StateSpec]:
        """What a sequence needs beside it, by recurrent layer: ``mixer`` of a block."""
        blocks: list[Any] = list(self.blocks)
        return [block.mixer.state_spec for block in blocks if hasattr(block, "mixer")]

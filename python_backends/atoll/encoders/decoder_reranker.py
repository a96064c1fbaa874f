"""Queries and documents to scores, by a decoder that is asked about them.

The score is the logit of a word after the text, "yes" for instance, or the difference of two such
logits; or that of a head of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from atoll.config import Settings
from atoll.encoders.classifier import Scorer, padding_of
from atoll.encoders.encoder_config import EncoderConfig
from atoll.encoders.heads import ClassificationHead
from atoll.encoders.pooling import last_rows
from atoll.errors import ConfigError
from atoll.layers import Batch
from atoll.layers.rotary import Rotary
from atoll.models import rerankers
from atoll.models.registry import Checkpoint, load_encoder
from atoll.text.pair_encoder import PairEncoder
from atoll.text.pair_prompts import prompt_of
from atoll.text.tokenizer import Tokenizer

# Its one label, where a checkpoint that generates text names none.
_LABEL = {"id2label": {"0": "LABEL_0"}}
# Scalings of positions whose tables depend on a text's length: its keys do, too.
_BY_LENGTH = ("dynamic", "longrope")


class DecoderReranker(Scorer):
    """A decoder that scores documents for a query; see ``models.rerankers`` for its forms.

    pairs: makes the texts; None: they are the tokenizer's pairs. shares_prefixes: whether the
    beginning of several texts may be computed once.
    """

    task = "rerank"

    def __init__(self, folder: Path, settings: Settings, tokenizer: Tokenizer) -> None:
        self._root, self._template, self._tokenizer = folder, settings.reranker_template, tokenizer
        super().__init__(folder, settings)
        self.head: ClassificationHead | None = None
        if self.form.words:
            raw = {**self._raw, **_LABEL}
            self.spec = EncoderConfig.read(folder, raw, settings, self.trunk.max_length)
        else:
            self.head = ClassificationHead.load(
                self.folder, self.trunk.config, len(self.spec.labels), self.options
            )
        self.pairs: PairEncoder | None = None
        if self.form.template != rerankers.PAIR:
            # The prompt of a cross encoder's files is the instruction.
            prompt = prompt_of(self.form.template, folder, tokenizer, self.spec.pair_prompt or None)
            self.pairs = PairEncoder(tokenizer, prompt, self.spec.max_length, self.vocab_size)
        rotaries = [part for part in self.trunk.modules() if isinstance(part, Rotary)]
        by_length = any(one.spec.kind in _BY_LENGTH for one in rotaries)
        is_recurrent = bool(self.trunk.state_specs())  # states are not shared as keys are
        is_causal = bool(self.trunk.config.is_causal)
        self.shares_prefixes = is_causal and not by_length and not is_recurrent

    def load_trunk(self, checkpoint: Checkpoint) -> Any:
        """See ``Encoder``: with the rows of the head for the words that are scored."""
        self._raw, self.padding = checkpoint.raw, padding_of(checkpoint.raw)
        self.form = rerankers.read(self._root, checkpoint.raw, self._template)
        words = [self._id(one) for one in self.form.words]
        return load_encoder(checkpoint, self.options, self.task, words)

    def logits(self, batch: Batch) -> Tensor:
        """See ``Scorer``."""
        hidden = self.hidden(batch)[last_rows(batch, self.padding if self.head else None)]
        if self.head is not None:
            scores: Tensor = self.head(hidden)
            return scores
        scores = self.trunk.logits(hidden)
        return scores[:, :1] - scores[:, 1:] if len(self.form.words) == 2 else scores

    def _id(self, word: int | str) -> int:
        """Raises ConfigError: the tokenizer has no such token."""
        if isinstance(word, int):
            return word
        ids = self._tokenizer.encode(word, add_special_tokens=False)
        if len(ids) != 1 or self._tokenizer.core.id_to_token(ids[0]) != word:
            raise ConfigError(
                f"{self._root}: the score of the word {word!r} is asked for, and the tokenizer has "
                f"no such token; reranker_template is {self.form.template!r}"
            )
        return ids[0]

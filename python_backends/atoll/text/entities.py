"""From scores of tokens to entities: the aggregation of transformers' TokenClassificationPipeline.

Source: transformers 5, pipelines/token_classification.py. Offsets count characters (code points) of
the text as it was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as RustTokenizer

from atoll.text.text_encoder import Places

Floats = npt.NDArray[np.float32]
# What becomes one entity: every token; neighbours with the same label; or these too, but all tokens
# of a word get the label of its first token, of its tokens' mean score, or of their greatest one.
STRATEGIES = ("none", "simple", "first", "average", "max")
# The label of what is no entity.
OUTSIDE = "O"


@dataclass(frozen=True)
class EntityOptions:
    """aggregation_strategy: one of ``STRATEGIES``. ignore_labels: of entities that are dropped."""

    aggregation_strategy: str = "none"
    ignore_labels: Collection[str] = (OUTSIDE,)


@dataclass(frozen=True, slots=True)
class Entity:
    """A part of a text with a label. index: of the token, if tokens are not aggregated; else -1."""

    label: str
    score: float
    start: int
    end: int
    word: str
    index: int = -1


@dataclass(frozen=True, slots=True)
class _Token:
    word: str
    scores: Floats
    start: int
    end: int
    index: int
    is_subword: bool


class EntityReader:
    """Reads entities from the scores of a checkpoint's tokens; safe to call from several threads.

    unknown: the tokenizer's unknown token. labels: in the order of the scores.
    """

    def __init__(self, core: RustTokenizer, unknown: str | None, labels: Sequence[str]) -> None:
        self._core, self._labels = core, tuple(labels)
        self._unknown_id = None if unknown is None else core.token_to_id(unknown)
        self._marks_subwords = bool(getattr(core.model, "continuing_subword_prefix", None))
        self._decoder = core.decoder

    def entities(
        self,
        text: str,
        ids: npt.NDArray[np.int32],
        places: Places,
        scores: Floats,
        options: EntityOptions,
    ) -> list[Entity]:
        """The entities of a text. ids: (tokens,). scores: (tokens, labels)."""
        strategy, ignored = options.aggregation_strategy, options.ignore_labels
        tokens = self._tokens(text, ids, places, scores)
        if strategy in ("none", "simple"):
            found = [self._labelled([t], t.scores, t.word, t.index) for t in tokens]
        else:
            choose = _CHOICES[strategy]
            found = [
                self._labelled(word, choose(word), self._text(t.word for t in word))
                for word in _words(tokens)
            ]
        if strategy == "none":
            return [entity for entity in found if entity.label not in ignored]
        # Groups of ignored labels end entities, too.
        named = ((group[0].label.split("-", 1)[-1], group) for group in _groups(found))
        return [
            Entity(
                label, float(np.mean(np.array([e.score for e in group], np.float32))),
                group[0].start, group[-1].end, self._text(e.word for e in group),
            )
            for label, group in named
            if label not in ignored
        ]  # fmt: skip

    def _tokens(
        self, text: str, ids: npt.NDArray[np.int32], places: Places, scores: Floats
    ) -> list[_Token]:
        """Without the special tokens around the text."""
        found = []
        rows = zip(ids.tolist(), places.offsets.tolist(), places.is_special.tolist(), strict=True)
        for index, (token, (start, end), is_special) in enumerate(rows):
            if is_special:
                continue
            word, own = self._core.id_to_token(token) or "", text[start:end]
            if token == self._unknown_id:
                word, is_subword = own, False
            elif self._marks_subwords:
                is_subword = len(word) != len(own)
            else:
                is_subword = start > 0 and " " not in text[start - 1 : start + 1]
            found.append(_Token(word, scores[index], start, end, index, is_subword))
        return found

    def _labelled(
        self, tokens: Sequence[_Token], scores: Floats, word: str, index: int = -1
    ) -> Entity:
        best = int(scores.argmax())
        return Entity(
            self._labels[best], float(scores[best]), tokens[0].start, tokens[-1].end, word, index
        )

    def _text(self, tokens: Iterable[str]) -> str:
        if self._decoder is None:
            return " ".join(tokens)
        return str(self._decoder.decode(list(tokens)))


def _words(tokens: Sequence[_Token]) -> list[list[_Token]]:
    """Tokens by word."""
    words: list[list[_Token]] = []
    for token in tokens:
        if words and token.is_subword:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _groups(entities: Sequence[Entity]) -> list[list[Entity]]:
    """Neighbours with the same tag; one with B- begins anew."""
    groups: list[list[Entity]] = []
    for entity in entities:
        begins = entity.label.startswith("B-")
        if groups and not begins and _tag(entity) == _tag(groups[-1][-1]):
            groups[-1].append(entity)
        else:
            groups.append([entity])
    return groups


def _tag(entity: Entity) -> str:
    """The label without B- and I-."""
    return entity.label[2:] if entity.label.startswith(("B-", "I-")) else entity.label


def _average(word: Sequence[_Token]) -> Floats:
    found: Floats = np.mean(np.stack([token.scores for token in word]), axis=0)
    return found


# What decides the label of a word.
_CHOICES: dict[str, Callable[[Sequence[_Token]], Floats]] = {
    "first": lambda word: word[0].scores,
    "average": _average,
    "max": lambda word: max((token.scores for token in word), key=lambda row: float(row.max())),
}

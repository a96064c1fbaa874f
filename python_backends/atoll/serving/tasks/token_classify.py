"""Token classifiers (named entities, personal data, parts of speech) as Triton models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atoll.config import Settings
from atoll.encoders.token_classifier import ScoredTokens, TokenClassifier
from atoll.errors import EmptyInputError, ValidationError
from atoll.serving.requests.encoder_request import Work
from atoll.serving.tasks.embed import counts
from atoll.serving.tasks.encoder import EncoderModel
from atoll.serving.triton import tensors
from atoll.text.entities import OUTSIDE, STRATEGIES, EntityOptions, EntityReader

_STRATEGY = "aggregation_strategy"


class TokenClassifyModel(EncoderModel):
    """text_input -> the entities of all texts, concatenated, and offsets."""

    task = "token_classify"
    parameters = frozenset({_STRATEGY})
    is_batched = False
    needs_places = True

    def load(self, folder: Path, settings: Settings) -> TokenClassifier:
        """See ``EncoderModel.load``."""
        self.encoder = TokenClassifier(folder, settings)
        labels = self.encoder.spec.labels
        self._reader = EntityReader(
            self.tokenizer.core, self.tokenizer.special_tokens.get("unk_token"), labels
        )
        # Entities of several tokens have the label without B- or I-.
        self._known = {OUTSIDE, *labels, *(label.split("-", 1)[-1] for label in labels)}
        return self.encoder

    def facts(self) -> dict[str, Any]:
        """See ``EncoderModel.facts``."""
        return {"labels": list(self.encoder.spec.labels)}

    def read(self, request: Any, given: dict[str, Any]) -> Work:
        """See ``EncoderModel.read``."""
        truncate, direction = self.truncation(given)
        strategy = given.get(_STRATEGY, STRATEGIES[0])
        if strategy not in STRATEGIES:
            raise ValidationError(f"{_STRATEGY} is {strategy!r}; known: {', '.join(STRATEGIES)}")
        ignored = tensors.strings(request, "ignore_labels")
        for index, label in enumerate(ignored or ()):
            if label not in self._known:
                raise ValidationError(
                    f"ignore_labels[{index}] is {label!r}; the model has {sorted(self._known)}"
                )
        options = EntityOptions(strategy, (OUTSIDE,) if ignored is None else ignored)
        texts = self.texts(request, "text_input")
        if texts is None:
            raise EmptyInputError("text_input is missing")
        return Work("text_input", options, tuple(texts), truncate=truncate, direction=direction)

    def absent(self, work: Work) -> Mapping[str, str]:
        """See ``EncoderModel.absent``."""
        is_none = work.options.aggregation_strategy == "none"
        return {} if is_none else {"index": f"{_STRATEGY} none"}

    def answer(self, work: Work, rows: list[ScoredTokens], lengths: list[int]) -> dict[str, Any]:
        """See ``EncoderModel.answer``: text i's are entities offsets[i] to offsets[i + 1]."""
        found = [
            self._reader.entities(str(text), row.ids, row.places, row.scores, work.options)
            for text, row in zip(work.texts, rows, strict=True)
        ]
        every = [entity for row in found for entity in row]
        outputs = {
            "label": _texts(entity.label for entity in every),
            "score": np.array([entity.score for entity in every], np.float32),
            "start": np.array([entity.start for entity in every], np.int32),
            "end": np.array([entity.end for entity in every], np.int32),
            "word": _texts(entity.word for entity in every),
            "offsets": np.cumsum([0, *map(len, found)], dtype=np.int32),
            **counts(lengths),
        }
        if work.options.aggregation_strategy == "none":
            outputs["index"] = np.array([entity.index for entity in every], np.int32)
        return outputs


def _texts(texts: Any) -> Any:
    return np.array([text.encode() for text in texts], object)

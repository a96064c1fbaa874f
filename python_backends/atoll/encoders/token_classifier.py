"""Texts to a score for each label of every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from atoll.config import Settings
from atoll.encoders.encoder import Encoder, finite_rows
from atoll.encoders.heads import ClassificationHead
from atoll.encoders.packer import Item
from atoll.errors import GenerationError
from atoll.layers import Batch

Floats = npt.NDArray[np.float32]


class ScoredTokens(NamedTuple):
    """ids: (tokens,) of a text. scores: (tokens, labels). places: the item's."""

    ids: npt.NDArray[np.int32]
    scores: Floats
    places: Any


class TokenClassifier(Encoder):
    """Texts to scores of tokens: a softmax over the labels, as in transformers' pipeline."""

    task = "token_classify"

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, replace(settings, task=self.task))
        self.head: ClassificationHead | None = None
        if self.is_native:
            self.head = ClassificationHead.load(
                self.folder, self.trunk.config, len(self.spec.labels), self.options, of_tokens=True
            )

    def __call__(self, batch: Batch, items: Sequence[Item]) -> list[object]:
        """A ``ScoredTokens``, or an error, per item."""
        found = self.hidden(batch)
        logits = found if self.head is None else self.head(found)
        scores = logits.float().softmax(-1).cpu()
        bounds = batch.cu_seqlens.tolist()
        return [
            ScoredTokens(item.ids, scores[start:stop].numpy(), item.places)
            if all(finite_rows(scores[start:stop]))
            else GenerationError("the scores are not finite (NaN or infinite)")
            for item, start, stop in zip(items, bounds[:-1], bounds[1:], strict=True)
        ]

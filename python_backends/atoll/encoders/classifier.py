"""Texts or pairs to a score for each label."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from atoll.config import Settings
from atoll.encoders.encoder import Encoder, finite_rows
from atoll.encoders.heads import ClassificationHead
from atoll.encoders.packer import Item
from atoll.encoders.pooling import last_rows, pool
from atoll.errors import GenerationError
from atoll.layers import Batch
from atoll.models import rerankers
from atoll.models.registry import Checkpoint
from atoll.weights.json_fields import Fields

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ScoreOptions:
    """The options of a request for scores.

    raw: returns the logits. instruction: what a decoder is told to judge; None: its default.
    """

    raw: bool = False
    instruction: str | None = None


class Scored(NamedTuple):
    """A text's scores (labels,), and the logits they were computed from, which never saturate."""

    scores: Floats
    logits: Floats


class Scorer(Encoder):
    """Texts to scores; a subclass says how their logits are computed.

    padding: the token that a head of a decoder passes over at the end of a text.
    """

    padding: int | None = None

    def load_trunk(self, checkpoint: Checkpoint) -> Any:
        """See ``Encoder``."""
        self.padding = padding_of(checkpoint.raw)
        return super().load_trunk(checkpoint)

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """(texts, labels)."""

    def __call__(self, batch: Batch, items: Sequence[Item]) -> list[object]:
        """A ``Scored``, or an error, per item."""
        logits = self.logits(batch).float().cpu()
        finite, scores = finite_rows(logits), self._scores(logits)
        return [
            Scored((logits if item.options.raw else scores)[row].numpy(), logits[row].numpy())
            if finite[row]
            else GenerationError("the score is not finite (NaN or infinite)")
            for row, item in enumerate(items)
        ]

    def _scores(self, logits: Tensor) -> Tensor:
        if self.spec.activation == "identity":
            return logits
        if self.spec.activation == "softmax":
            return logits.softmax(-1)
        return logits.tanh() if self.spec.activation == "tanh" else logits.sigmoid()


def padding_of(config: Mapping[str, Any]) -> int | None:
    """The token that the head of a decoder passes over; None: it passes over none.

    Raises ConfigError: pad_token_id is no id.
    """
    fields = Fields(config)
    if not rerankers.is_decoder(config) or not fields.has("pad_token_id"):
        return None
    found = config["pad_token_id"]
    if type(found) is not int:
        raise fields.wrong("a token's id", "pad_token_id")
    return found


class Classifier(Scorer):
    """Texts or pairs to a score for each label; a reranker has one label."""

    task = "classify"

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        self.head: ClassificationHead | None = None
        if self.is_native:
            self.head = ClassificationHead.load(
                self.folder, self.trunk.config, len(self.spec.labels), self.options
            )

    def logits(self, batch: Batch) -> Tensor:
        """See ``Scorer``."""
        found = self.hidden(batch)
        if self.head is None:
            return found
        if self.head.pooling == "last-token":
            vectors = found[last_rows(batch, self.padding)]
        else:
            vectors = pool(found, batch.cu_seqlens, self.head.pooling).to(found.dtype)
        logits: Tensor = self.head(vectors)
        return logits

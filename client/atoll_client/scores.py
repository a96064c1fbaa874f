"""Scores computed from logits so that different logits always have different scores.

In float32, the sigmoid of every logit from 17 on is 1, which would lose their order. Scores are
therefore computed in float64; if two are still equal (logits of 37 and 40), they are made to differ
by the unit in the last place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from atoll_client.errors import UnsupportedModel
from atoll_client.types import Floats, ModelInfo

Doubles = npt.NDArray[np.float64]


class Scores(NamedTuple):
    """Scores of one text's labels, or of the texts of one query.

    order: indices, the best first; ties in their original order.
    """

    values: list[float]
    order: list[int]


def of_texts(logits: Floats, activation: str) -> Scores:
    """A reranker's scores, from logits (texts, 1)."""
    wide = logits.astype(np.float64)
    return _scores(wide.reshape(-1), apply(wide, activation).reshape(-1), activation)


def of_labels(logits: Floats, activation: str) -> list[Scores]:
    """A classifier's scores, from logits (texts, labels).

    A single label is a grade or a relevance, so scores are compared between texts.
    """
    if logits.shape[-1] == 1:
        return [Scores([value], [0]) for value in of_texts(logits, activation).values]
    wide = logits.astype(np.float64)
    rows = zip(wide, apply(wide, activation), strict=True)
    return [_scores(row, values, activation) for row, values in rows]


def _scores(logits: Doubles, values: Doubles, activation: str) -> Scores:
    order: list[int] = np.argsort(-logits, kind="stable").tolist()
    if activation != "identity":
        values = _set_apart(values, logits, 0.0 if activation == "tanh" else 0.5)
    return Scores(values.tolist(), order)


def activation_of(model: ModelInfo, num_labels: int, is_raw: bool = False) -> str:
    """The activation of a model's scores: its own, or else the one that most are trained with."""
    if is_raw:
        return "identity"
    return str(model.facts.get("activation") or ("sigmoid" if num_labels == 1 else "softmax"))


def apply(logits: Doubles, activation: str) -> Doubles:
    """identity, sigmoid or tanh of each logit, or softmax over the last axis; float64.

    Raises:
        UnsupportedModel: an unknown name, of a newer server.
    """
    if activation == "identity":
        return logits.copy()
    if activation == "sigmoid":
        found: Doubles = np.exp(-np.logaddexp(0.0, -logits))
    elif activation == "softmax":
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        found = shifted / shifted.sum(axis=-1, keepdims=True)
    elif activation == "tanh":
        found = np.tanh(logits)
    else:
        raise UnsupportedModel(f"the activation {activation!r} is not known here")
    return found


def _set_apart(values: Doubles, logits: Doubles, middle: float) -> Doubles:
    """Makes values of different logits differ, moving them away from the nearer bound."""
    _, first, which = np.unique(logits, return_index=True, return_inverse=True)
    rising = values[first]
    if not (np.diff(rising) > 0).all():
        above = int(np.searchsorted(np.maximum.accumulate(rising), middle, side="right"))
        for i in range(len(rising) - 2, above - 1, -1):
            rising[i] = min(rising[i], np.nextafter(rising[i + 1], -np.inf))
        for i in range(1, len(rising)):
            rising[i] = max(rising[i], np.nextafter(rising[i - 1], np.inf))
    return rising[which]

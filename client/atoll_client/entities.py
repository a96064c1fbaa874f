"""Builds the requests and reads the answers of token classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from atoll_client import kserve
from atoll_client.kserve import Message, Parameters
from atoll_client.types import Entity


def request(
    model: str, texts: Sequence[str], ignore_labels: Sequence[str] | None, parameters: Parameters
) -> Message:
    """Texts to their entities. ignore_labels: None: the model's default, O."""
    message = kserve.request(model, parameters, kserve.unique())
    kserve.add_texts(message, "text_input", texts, [len(texts), 1])
    if ignore_labels is not None:
        kserve.add_texts(message, "ignore_labels", ignore_labels, [len(ignore_labels)])
    return message


def read(response: Message) -> tuple[list[list[Entity]], Any]:
    """The entities of each text, and the counts of input tokens."""
    found = kserve.outputs(response)
    labels, words = (kserve.as_text({"": found[name]})[""] for name in ("label", "word"))
    numbers = [found[name].reshape(-1).tolist() for name in ("score", "start", "end")]
    places = found.get("index", np.empty(0)).reshape(-1).tolist() or [None] * len(labels)
    every = [Entity(*row) for row in zip(labels, *numbers, words, places, strict=True)]
    bounds = found["offsets"].reshape(-1).tolist()
    rows = [every[start:stop] for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]
    return rows, found["num_input_tokens"].reshape(-1)

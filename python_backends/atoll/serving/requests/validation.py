"""Checks that several tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atoll.errors import EmptyInputError, ValidationError
from atoll.serving.triton.tensors import as_bool


def check_ids(name: str, ids: Sequence[int], vocab_size: int) -> None:
    """Also needed for texts: some tokenizers have tokens without an embedding in the model.

    Raises:
        ValidationError: an id outside the vocabulary.
    """
    wrong = next((i for i, token in enumerate(ids) if not 0 <= token < vocab_size), None)
    if wrong is not None:
        what = f"input_ids[{wrong}]" if name == "input_ids" else f"token {wrong} of {name}"
        raise ValidationError(f"{what} is {ids[wrong]}; the vocabulary has {vocab_size}")


def refuse_empty(name: str, texts: Sequence[str]) -> None:
    """Raises EmptyInputError: names the first text that is empty."""
    for index, text in enumerate(texts):
        if not text:
            raise EmptyInputError(f"{name}[{index}] is empty")


def read_truncation(given: Mapping[str, Any], default: bool, side: str) -> tuple[bool, str]:
    """The parameters ``truncate`` and ``truncation_direction`` (left or right) of a request."""
    truncate = as_bool("truncate", given.get("truncate", default))
    direction = given.get("truncation_direction", side)
    if str(direction).lower() not in ("left", "right"):
        raise ValidationError(f"truncation_direction is {direction!r}; expected left or right")
    return truncate, str(direction).lower()

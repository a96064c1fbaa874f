"""Checks of a request that need nothing but the model's limits."""

from __future__ import annotations

from collections.abc import Sequence

from atoll.errors import ValidationError


def check_ids(name: str, ids: Sequence[int], vocab_size: int) -> None:
    """Also needed for texts: some tokenizers have tokens without an embedding in the model.

    Raises:
        ValidationError: an id outside the vocabulary.
    """
    wrong = next((i for i, token in enumerate(ids) if not 0 <= token < vocab_size), None)
    if wrong is not None:
        what = f"input_ids[{wrong}]" if name == "input_ids" else f"token {wrong} of {name}"
        raise ValidationError(f"{what} is {ids[wrong]}; the vocabulary has {vocab_size}")

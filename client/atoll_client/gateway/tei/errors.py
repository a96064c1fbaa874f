"""A model's errors about texts, in TEI's words and with the field names of the routes."""

from __future__ import annotations

import re

from atoll_client.errors import TooMuch, ValidationError
from atoll_client.gateway.core.rewording import Reworded
from atoll_client.types import ModelInfo

_TOKENS = re.compile(r" has (\d+) tokens; the model accepts")
_CHARACTERS = re.compile(r" has (\d+) characters; .* at most (\d+) characters")
# The models' names of what the routes call inputs.
_NAMES = re.compile(r"\b(text_input|input_ids|query)\[(\d+)\]")


class TeiMessages(Reworded):
    """``with``: "too long" as TEI says it. field: the one that holds the texts."""

    def __init__(self, model: ModelInfo, field: str = "inputs") -> None:
        self._model, self._field = model, field

    def words(self, error: ValidationError) -> ValidationError | None:
        message, field = str(error), self._field
        found = _CHARACTERS.search(message)
        if found:
            return self._too_long("characters", found[2], found[1])
        found = _TOKENS.search(message)
        if found:
            return self._too_long("tokens", self._model.max_input_tokens, found[1])
        if _NAMES.search(message):
            return type(error)(_NAMES.sub(rf"`{field}[\2]`", message), param=field)
        return None

    def _too_long(self, unit: str, limit: str | int, given: str) -> TooMuch:
        return TooMuch.of(
            self._field,
            f"must have less than {limit} {unit}. Given: {given}",
            code="context_length_exceeded",
        )

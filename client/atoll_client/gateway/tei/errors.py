"""A model's errors about texts, in TEI's words and with the field names of the routes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from atoll_client.errors import TooMuch, ValidationError
from atoll_client.gateway.core.rewording import Reworded
from atoll_client.types import ModelInfo

_TOKENS = re.compile(r"\b(\w+)\[\d+\] has (\d+) tokens(?: with its \w+)?; the model accepts (\d+)")
_CHARACTERS = re.compile(
    r"\b(\w+)\[\d+\] has (\d+) characters(?: with its \w+)?; .* at most (\d+) characters"
)
# The models' names of what the routes call inputs.
_NAMES = re.compile(r"\b(text_input|input_ids|query|image)\[(\d+)\]")


class TeiMessages(Reworded):
    """``with``: "too long" as TEI says it.

    field: the one that holds the texts. query: the one that holds a late-interaction model's
    queries, which have a limit of their own; other models read them together with the texts.
    places: the index in ``field`` of each row that the model gets; None: its own index.
    """

    def __init__(
        self,
        model: ModelInfo,
        field: str = "inputs",
        query: str = "query",
        places: Sequence[int] | None = None,
    ) -> None:
        self._field, self._places = field, places
        self._query = query if model.task == "multi_vector" else field

    def words(self, error: ValidationError) -> ValidationError | None:
        message = str(error)
        found = _CHARACTERS.search(message)
        if found:
            return self._too_long(found[1], "characters", found[3], found[2])
        found = _TOKENS.search(message)
        if found:
            return self._too_long(found[1], "tokens", found[3], found[2])
        found = _NAMES.search(message)
        if found:
            text = _NAMES.sub(lambda m: f"`{self._called(m[1])}[{self._place(m[2])}]`", message)
            return type(error)(text, param=self._called(found[1]))
        return None

    def _called(self, name: str) -> str:
        return self._query if name == "query" else self._field

    def _place(self, row: str) -> int:
        return int(row) if self._places is None else self._places[int(row)]

    def _too_long(self, name: str, unit: str, limit: str, given: str) -> TooMuch:
        return TooMuch.of(
            self._called(name),
            f"must have less than {limit} {unit}. Given: {given}",
            code="context_length_exceeded",
        )

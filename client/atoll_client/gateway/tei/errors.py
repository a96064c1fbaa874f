"""What a model says of texts, in TEI's words and with the gateway's names of fields."""

from __future__ import annotations

import re
from typing import Any

from atoll_client.errors import TooMuch, ValidationError
from atoll_client.types import ModelInfo

_TOKENS = re.compile(r" has (\d+) tokens; the model accepts")
_CHARACTERS = re.compile(r" has (\d+) characters; .* at most (\d+) characters")
# The models' names of what the routes call inputs.
_NAMES = re.compile(r"\b(text_input|input_ids|query)\[(\d+)\]")


class exact_messages:
    """``with``: "too long" as TEI says it, with the numbers of the model's message.

    field: what holds the texts.
    """

    def __init__(self, model: ModelInfo, field: str = "inputs") -> None:
        self._model, self._field = model, field

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, ValidationError) or error.param is not None:
            return
        message, field = str(error), self._field
        found = _CHARACTERS.search(message)
        if found:
            raise TooMuch(
                f"`{field}` must have less than {found[2]} characters. Given: {found[1]}",
                param=field, code="context_length_exceeded",
            ) from error  # fmt: skip
        found = _TOKENS.search(message)
        if found:
            raise TooMuch(
                f"`{field}` must have less than {self._model.max_input_tokens} tokens. "
                f"Given: {found[1]}",
                param=field, code="context_length_exceeded",
            ) from error  # fmt: skip
        if _NAMES.search(message):
            named = _NAMES.sub(rf"`{field}[\2]`", message)
            raise type(error)(named, param=field) from error

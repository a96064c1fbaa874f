"""A model's errors about a request, in Anthropic's words."""

from __future__ import annotations

import re

from atoll_client.errors import ValidationError
from atoll_client.gateway.anthropic.schemas import CountTokensBody
from atoll_client.gateway.chat_formats.tool_choice import in_tool
from atoll_client.gateway.core.rewording import Reworded
from atoll_client.types import ModelInfo

_TOO_LONG = re.compile(r"has (\d+) tokens(?: and max_tokens is (\d+))?")
_SCHEMA = re.compile(r"^the json_schema is not valid")
_STOP = re.compile(r"^stop\b")


class AnthropicMessages(Reworded):
    """``with``: "too long" as Anthropic says it, since clients read its numbers; and its fields."""

    def __init__(self, model: ModelInfo, body: CountTokensBody) -> None:
        self._model = model
        self._tools = {
            tool.name: f"tools[{at}].input_schema" for at, tool in enumerate(body.tools or ())
        }
        form = body.output_config.format if body.output_config else None
        self._schema = "tools" if form is None else "output_config.format.schema"

    def words(self, error: ValidationError) -> ValidationError:
        text = str(error)
        found = _TOO_LONG.search(text)
        if found is None:
            if _SCHEMA.match(text):
                told, field = in_tool(text, self._tools)
                if field is not None:
                    return ValidationError(told)
                return ValidationError(f"`{self._schema}`: {text}")
            return ValidationError(_STOP.sub("`stop_sequences`", text))
        if found[2] is None:
            return ValidationError(
                f"prompt is too long: {found[1]} tokens > {self._model.max_input_tokens} maximum"
            )
        most = self._model.facts.get("max_total_tokens")
        return ValidationError(
            f"input length and `max_tokens` exceed context limit: {found[1]} + {found[2]} > {most},"
            " decrease input length or `max_tokens` and try again"
        )

"""A model's errors about a request, in OpenAI's words: the field, and the length of the context."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel

from atoll_client.errors import ValidationError
from atoll_client.gateway.chat_formats.tool_choice import in_tool
from atoll_client.gateway.core.rewording import Reworded
from atoll_client.types import ModelInfo

_TOO_LONG = re.compile(r"has (\d+) tokens(?: and max_tokens is (\d+))?")
_NAMED = re.compile(r"`?([a-z_]+)((?:\[\d+\]|\.\w+)*)")
_VARIABLE = re.compile(r"^chat_template_kwargs\.(documents|reasoning_effort)\b")
# The models' names of the prompt.
_INPUT = re.compile(r"^(text_input|input_ids)\b")
_CONSTRAINT = re.compile(r"the (?:json_schema|json_object|regex|grammar) is not valid")
_CONSTRAINTS = (
    "response_format", "structured_outputs", "guided_json", "guided_regex", "guided_grammar",
    "guided_choice", "tools",
)  # fmt: skip


class OpenAIMessages(Reworded):
    """``with``: a model's errors get a ``param`` and a ``code``, and OpenAI's "too long".

    prompt: the field that holds the prompt. names: fields by the models' names for them.
    """

    names: ClassVar[Mapping[str, str]] = {"truncate": "truncate_prompt_tokens"}

    def __init__(self, model: ModelInfo, body: BaseModel, prompt: str) -> None:
        self._model, self._body, self._prompt = model, body, prompt

    def words(self, error: ValidationError) -> ValidationError:
        found = _TOO_LONG.search(str(error))
        if found:
            return self._too_long(int(found[1]), found[2])
        message = _INPUT.sub(self._prompt, _VARIABLE.sub(r"\1", str(error)))
        message, field = in_tool(message, self.tool_fields())
        return ValidationError(message, param=field or self._param(message))

    def _too_long(self, num_tokens: int, asked: str | None) -> ValidationError:
        most = self._model.facts.get("max_total_tokens")
        message = f"This model's maximum context length is {most} tokens. However, "
        if asked is not None:
            message += (
                f"you requested {num_tokens + int(asked)} tokens ({num_tokens} in the "
                f"{self._prompt}, {asked} in the completion). Please reduce the length of the "
                f"{self._prompt} or completion."
            )
        else:
            message += (
                f"your {self._prompt} resulted in {num_tokens} tokens, of which at most "
                f"{self._model.max_input_tokens} are taken. Please reduce the length of the "
                f"{self._prompt}."
            )
        return ValidationError(message, param=self._prompt, code="context_length_exceeded")

    def _param(self, message: str) -> str | None:
        if _CONSTRAINT.match(message):
            return self.constraint()
        found = _NAMED.match(message)
        if found is None:
            return None
        name = self.names.get(found[1], found[1])
        is_known = name.partition(".")[0] in type(self._body).model_fields
        return name + found[2] if is_known else None

    def tool_fields(self) -> Mapping[str, str]:
        """The fields with the parameters of tools, by the tools' names."""
        tools = getattr(self._body, "tools", None) or ()
        return {
            tool.function.name: f"tools[{at}].function.parameters" for at, tool in enumerate(tools)
        }

    def constraint(self) -> str | None:
        """The field with the constraint that cannot be compiled."""
        return next((n for n in _CONSTRAINTS if getattr(self._body, n, None)), None)

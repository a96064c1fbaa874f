"""A model's errors about a response, in the words of the Responses API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from atoll_client.errors import ValidationError
from atoll_client.gateway.openai.errors import OpenAIMessages
from atoll_client.gateway.responses.namespaces import named_tools
from atoll_client.gateway.responses.schemas import PromptFields
from atoll_client.types import ModelInfo

_NAMES = {
    "max_tokens": "max_output_tokens", "messages": "input", "reasoning_effort": "reasoning.effort",
}  # fmt: skip
_NAME = re.compile(rf"^(`?)({'|'.join(_NAMES)})\b")


class ResponseMessages(OpenAIMessages):
    """See ``OpenAIMessages``."""

    names: ClassVar[Mapping[str, str]] = _NAMES

    def __init__(self, model: ModelInfo, body: PromptFields) -> None:
        super().__init__(model, body, "input")
        self._tools = body.tools or []
        self._has_format = body.text is not None and body.text.format is not None

    def words(self, error: ValidationError) -> ValidationError:
        """See ``Reworded``."""
        found = super().words(error)
        message = _NAME.sub(lambda match: match[1] + _NAMES[match[2]], str(found))
        return ValidationError(message, param=found.param, code=found.code)

    def tool_fields(self) -> Mapping[str, str]:
        """See ``OpenAIMessages``."""
        tools = named_tools(self._tools)
        return {tool.shown: f"{tool.field}.parameters" for tool in tools}

    def constraint(self) -> str | None:
        """See ``OpenAIMessages``."""
        return "text.format" if self._has_format else "tools"

"""What an Ollama request asks of a model: messages, options, the format of the answer."""

from __future__ import annotations

import re
from typing import Any

from atoll_client.errors import ValidationError
from atoll_client.gateway.chat_formats.constraints import Constraint, json_schema
from atoll_client.gateway.chat_formats.thinking import effort_variables, thinking_variables
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.generation import adapter_of, given
from atoll_client.gateway.core.rewording import Reworded
from atoll_client.gateway.core.web import Request
from atoll_client.gateway.ollama.schemas import (
    GenerationFields,
    OllamaGenerateBody,
    OllamaMessage,
)
from atoll_client.types import ModelInfo

# What Ollama adds to names that have no tag.
LATEST = ":latest"
# Fields by the models' names for them.
_FIELDS = {
    "max_tokens": "num_predict", "repetition_penalty": "repeat_penalty", "text_input": "prompt",
}  # fmt: skip


def untagged(context: Context, name: str | None) -> str | None:
    """A model's name without ``:latest``, unless a model is called so."""
    if name is None or context.models.named(name) is not None:
        return name
    return name.removesuffix(LATEST)


def chat_message(message: OllamaMessage) -> dict[str, Any]:
    """A message for the chat template."""
    calls = [
        given(
            (
                ("id", call.id),
                ("type", "function"),
                ("function", {"name": call.function.name, "arguments": call.function.arguments}),
            )
        )
        for call in message.tool_calls or ()
    ]
    return given(
        (
            ("role", message.role),
            ("content", message.content),
            ("reasoning_content", message.thinking or None),
            ("tool_calls", calls or None),
            ("tool_call_id", message.tool_call_id),
            ("name", message.tool_name),
        )
    )


def sampling(
    request: Request, body: GenerationFields, name: str | None, model: ModelInfo
) -> dict[str, Any]:
    """The model's sampling options."""
    options = body.options
    stop = [options.stop] if isinstance(options.stop, str) else options.stop
    found = given(
        (
            ("temperature", options.temperature),
            ("do_sample", options.temperature > 0),
            ("top_k", options.top_k),
            ("top_p", options.top_p),
            ("min_p", options.min_p),
            ("typical_p", options.typical_p),
            ("seed", None if options.seed is None or options.seed < 0 else options.seed),
            ("stop", stop),
            ("repetition_penalty", options.repeat_penalty),
            ("presence_penalty", options.presence_penalty),
            ("frequency_penalty", options.frequency_penalty),
            ("adapter_id", adapter_of(request, name, model)),
            ("top_logprobs", body.top_logprobs or None),
        )
    )
    # None: up to the end of the context.
    limit = options.num_predict
    return {**found, "max_tokens": None if limit is None or limit < 1 else limit}


def template_options(body: GenerationFields, model: ModelInfo) -> dict[str, Any]:
    """The model's options of the chat template.

    Raises:
        ValidationError: the template cannot do what ``think`` says.
    """
    if body.think is None:
        return {}
    if isinstance(body.think, bool):
        variables = thinking_variables(model, body.think, "think")
    else:
        variables = effort_variables(model, body.think, "think")
    return {"chat_template_kwargs": variables} if variables else {}


def constraint(body: GenerationFields) -> Constraint | None:
    """The constraint of the answer's text."""
    if not isinstance(body.format, dict):
        return ("response_format", {"type": "json_object"}) if body.format else None
    return json_schema(body.format)


class OllamaMessages(Reworded):
    """``with``: a model's errors with Ollama's names of its options."""

    def __init__(self, body: GenerationFields) -> None:
        is_prompt = isinstance(body, OllamaGenerateBody)
        self._fields = {**_FIELDS, **({"messages": "prompt"} if is_prompt else {})}
        self._names = re.compile(rf"\b({'|'.join(self._fields)})\b")

    def words(self, error: ValidationError) -> ValidationError:
        return ValidationError(self._names.sub(lambda found: self._fields[found[1]], str(error)))

"""A chat with a model, whatever the dialect: what the model is asked, and how its answer is read."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll_client.gateway.chat_formats.answer import Answer
from atoll_client.gateway.chat_formats.constraints import Constraint
from atoll_client.gateway.chat_formats.events import Ended, Event
from atoll_client.gateway.chat_formats.reader import Format
from atoll_client.gateway.chat_formats.table import format_of
from atoll_client.gateway.chat_formats.tool_choice import ToolChoice
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.generation import Job, stream
from atoll_client.gateway.core.web import Request
from atoll_client.tasks import Prompt, Wanted
from atoll_client.types import Chunk, ModelInfo


@dataclass(frozen=True)
class Chat:
    """A job, and the format of its answer. num_earlier_calls: those of the conversation."""

    job: Job
    form: Format
    num_earlier_calls: int

    @classmethod
    def of(
        cls,
        model: ModelInfo,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        choice: ToolChoice | None,
        options: Mapping[str, Any],
        wanted: Wanted,
        *,
        bound: Constraint | None = None,
        max_calls: int | None = None,
    ) -> Chat:
        """A chat to ask for.

        Args:
            messages, tools: as in OpenAI's chat completions, for the model's chat template.
            choice: the tools that may be called; None: the model is told of none.
            options: sampling options with the model's names.
            bound: the constraint of the answer's text.
            max_calls: further calls are dropped.

        Raises:
            ValidationError: ``bound`` cannot be combined with calls.
            UnsupportedModel: the model names a format that is not known here.
        """
        if choice is not None:
            bound = choice.constraint(bound)
        functions = None if choice is None else choice.functions
        form = format_of(model, functions, bound is not None, max_calls)
        found = {**options, **({} if bound is None else dict([bound]))}
        found |= _options(form, found.get("stop") or [], model)
        prompt = Prompt(messages=messages, tools=tools if choice else None)
        num_earlier_calls = sum(len(message.get("tool_calls") or ()) for message in messages)
        return cls(Job(model, prompt, found, wanted), form, num_earlier_calls)

    def answer(self) -> Answer:
        """An answer to read."""
        return Answer(self.form, self.num_earlier_calls)


def _options(form: Format, stop: Sequence[str], model: ModelInfo) -> dict[str, Any]:
    """The model's options that follow from the format."""
    found: dict[str, Any] = {}
    if form.reasoning is not None:
        found["reasoning"] = form.reasoning.option()
    if form.markers:
        found["kept_special_tokens"] = list(form.markers)
    # Reasoning may speak of calls.
    if form.max_calls is not None and form.reasoning is None and form.calls and form.calls.end:
        # Stops behind the first call, unless the request has the most stop strings already.
        if len(stop) < int(model.facts.get("max_stop_sequences") or 4):
            found["stop"] = [*stop, form.calls.end]
    return found


async def answered(
    request: Request, context: Context, chat: Chat, *, is_stream: bool
) -> AsyncGenerator[tuple[Chunk, list[Event | Ended]], None]:
    """Each chunk of the answer with its events; if ``is_stream`` is false, there is one chunk.

    The last chunk has the token counts. Raises as ``core.generation.stream``.
    """
    answer = chat.answer()
    async with contextlib.aclosing(
        stream(request, context, chat.job, is_stream=is_stream)
    ) as chunks:
        async for chunk in chunks:
            yield chunk, answer.write(chunk)

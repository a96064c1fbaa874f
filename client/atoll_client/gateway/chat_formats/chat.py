"""A chat in any dialect: what the model is asked, and how its answer is read."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    calls, has_room = form.calls, len(stop) < int(model.facts.get("max_stop_sequences") or 4)
    is_one_call = form.max_calls is not None and form.reasoning is None and has_room
    # Stops behind the first call; reasoning, if there is any, may speak of calls.
    if is_one_call and calls is not None and calls.end:
        found["stop"] = [*stop, calls.end]
    return found


async def answered(
    request: Request,
    context: Context,
    chat: Chat,
    answer: Answer,
    *,
    is_stream: bool,
    by_token: bool = False,
) -> AsyncGenerator[tuple[Chunk, list[Event | Ended]], None]:
    """Each chunk of the answer with its events. Raises as ``core.generation.stream``.

    Args:
        answer: of the chat. is_stream: as in ``core.generation.stream``.
        by_token: each token is a chunk of its own, if the model tells the texts of tokens.
    """
    async with contextlib.aclosing(
        stream(request, context, chat.job, is_stream=is_stream)
    ) as chunks:
        async for chunk in chunks:
            for one in _tokens(chunk) if by_token else (chunk,):
                yield one, answer.write(one)


def _tokens(chunk: Chunk) -> list[Chunk]:
    """The chunk as one for each of its tokens; the last one has everything else."""
    if len(chunk.tokens) < 2 or "".join(token.text for token in chunk.tokens) != chunk.text:
        return [chunk]
    *first, last = chunk.tokens
    state = chunk.reasoning_state
    found = [Chunk(token.text, (token,), reasoning_state=state) for token in first]
    return [*found, replace(chunk, text=last.text, tokens=(last,))]

"""OpenAI's chat completions, streamed or whole, with tools, formats and log-probabilities."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from atoll_client.errors import EmptyInputError, ValidationError
from atoll_client.gateway.chat_formats.chat import Chat
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.fields import refused
from atoll_client.gateway.core.generation import Job, check_answers, complete_all, stream_all
from atoll_client.gateway.core.sse import Events
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.openai import answers
from atoll_client.gateway.openai.constraints import constraint
from atoll_client.gateway.openai.deltas import Deltas, logprobs_of, whole
from atoll_client.gateway.openai.errors import OpenAIMessages
from atoll_client.gateway.openai.messages import Choice, TemplateFields, check_messages
from atoll_client.gateway.openai.sampling import (
    failure,
    identity,
    running_usage,
    sampling,
    usage,
    usage_wanted,
)
from atoll_client.gateway.openai.schemas import MAX_TOP_LOGPROBS, SamplingFields
from atoll_client.gateway.openai.tools import read_choice
from atoll_client.tasks import Wanted
from atoll_client.types import Chunk

_TEXT_ONLY = "the models here write text"


class ChatBody(TemplateFields, SamplingFields):
    """POST /v1/chat/completions."""

    include_reasoning: bool = True
    logprobs: bool = False
    max_completion_tokens: int | None = Field(None, ge=1)
    parallel_tool_calls: bool | None = None
    tool_choice: str | Choice | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    audio: Any = refused(_TEXT_ONLY)
    echo: Any = refused("an answer does not repeat its prompt", False)
    function_call: Any = refused("it is called tool_choice now", "none")
    functions: Any = refused("they are called tools now")
    mm_processor_kwargs: Any = refused(_TEXT_ONLY)
    modalities: Any = refused(_TEXT_ONLY, ["text"])
    moderation: Any = refused("nothing is moderated")
    verbosity: Any = refused("the models here have no levels of verbosity", "medium")
    web_search_options: Any = refused("the models here search nothing")


@dataclass(frozen=True)
class _Asked:
    """A request that has been read."""

    body: ChatBody
    chat: Chat
    jobs: list[Job]
    head: answers.Identity
    has_usage: bool


async def chat(
    request: Request, context: Context, body: ChatBody
) -> Reply[answers.ChatCompletion] | Events[answers.ChatCompletionChunk | answers.StreamError]:
    """A choice for each of ``n`` answers."""
    request.labels["kind"] = "tgi"
    model = context.find(request, body.model, ("generate",))
    _check(body)
    check_answers(context, model, 1, body.n)
    asked = Chat.of(
        model,
        [message.given() for message in body.messages],
        [tool.given() for tool in body.tools or ()],
        read_choice(body.tools or (), body.tool_choice),
        {**sampling(body, model, request, None), **_options(body)},
        Wanted(
            # Without the texts of its tokens, reasoning cannot be counted.
            logprobs=body.logprobs or model.may_reason,
            num_cached_tokens=True,
            num_accepted_tokens=body.prediction is not None,
        ),  # fmt: skip
        bound=constraint(body),
        max_calls=1 if body.parallel_tool_calls is False else None,
    )
    num_jobs = 1 if "n" in asked.job.sampling else body.n
    jobs = [asked.job.seeded(index) for index in range(num_jobs)]
    head = identity(body.model or model.name, "chatcmpl")
    found = _Asked(body, asked, jobs, head, usage_wanted(body))
    if body.stream:
        return Events(_events(request, context, found), failure, end=b"[DONE]")
    with OpenAIMessages(model, body, "messages"):
        chunks = await complete_all(request, context, jobs)
    writers = [_deltas(found) for _ in chunks]
    choices = [
        _choice(index, writer.write(chunk))
        for index, (writer, chunk) in enumerate(zip(writers, chunks, strict=True))
    ]
    counts = _usage(found, chunks, writers)
    answer: answers.ChatCompletion = {
        **head, "object": "chat.completion", "choices": choices, "usage": counts,
    }  # fmt: skip
    return reply(answer)


def _check(body: ChatBody) -> None:
    if not body.messages:
        raise EmptyInputError.of("messages", "cannot be empty")
    check_messages(body.messages)
    if body.top_logprobs and not body.logprobs:
        raise ValidationError.of("top_logprobs", "needs `logprobs` to be true")
    if None not in (body.max_tokens, body.max_completion_tokens):
        raise ValidationError.of("max_tokens", "and `max_completion_tokens` are set; expected one")
    if body.tool_prompt is not None and not body.tools:
        raise ValidationError.of("tool_prompt", "is set, but `tools` is empty")
    if body.max_tokens == 0:
        raise ValidationError.of("max_tokens", "is 0; the least allowed is 1")


def _options(body: ChatBody) -> dict[str, Any]:
    """The model's options of a chat, in addition to ``sampling``."""
    options = body.template_options()
    # None: up to the end of the context.
    options["max_tokens"] = body.max_completion_tokens or body.max_tokens
    if body.top_logprobs:
        options["top_logprobs"] = body.top_logprobs
    return options


def _choice(index: int, pieces: list[answers.Piece]) -> answers.ChatChoice:
    message, logprobs, reason = whole(pieces)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _deltas(found: _Asked) -> Deltas:
    body = found.body
    return Deltas(
        found.chat.answer(),
        (lambda chunk: logprobs_of(chunk, body.top_logprobs or 0)) if body.logprobs else None,
        has_reasoning=body.include_reasoning,
    )


def _usage(
    found: _Asked, chunks: Sequence[Chunk], writers: Sequence[Deltas]
) -> answers.CompletionUsage:
    return usage(
        chunks,
        has_prediction=found.body.prediction is not None,
        num_reasoning_tokens=sum(writer.num_reasoning_tokens for writer in writers),
    )


async def _events(
    request: Request, context: Context, found: _Asked
) -> AsyncIterator[answers.ChatCompletionChunk]:
    writers = [_deltas(found) for _ in found.jobs]
    ends: dict[int, Chunk] = {}
    with OpenAIMessages(found.chat.job.model, found.body, "messages"):
        async for index, chunk in stream_all(request, context, found.jobs):
            if chunk.finish_reason:
                ends[index] = chunk
            for piece in writers[index].write(chunk):
                yield _chunk(found, [{"index": index, **piece}], running_usage(found.body, chunk))
    if found.has_usage:
        yield _chunk(found, [], _usage(found, [ends[i] for i in sorted(ends)], writers))


def _chunk(
    found: _Asked, choices: list[answers.ChatDelta], counts: answers.RunningUsage | None
) -> answers.ChatCompletionChunk:
    """An event. If the last one has the usage, the field is there in the others, too."""
    chunk: answers.ChatCompletionChunk = {
        **found.head, "object": "chat.completion.chunk", "choices": choices, "usage": counts,
    }  # fmt: skip
    if not found.has_usage:
        del chunk["usage"]
    return chunk

"""OpenAI's chat completions, streamed or whole, with tools, formats and log-probabilities."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from atoll_client.errors import EmptyInputError, ValidationError
from atoll_client.gateway.constraints import json_schema
from atoll_client.gateway.fields import Refused
from atoll_client.gateway.generation import Job, complete_all, stream_all
from atoll_client.gateway.http import Answer, Events, Request, dump, reply
from atoll_client.gateway.openai_errors import openai_words
from atoll_client.gateway.openai_fields import MAX_TOP_LOGPROBS, SamplingFields
from atoll_client.gateway.openai_messages import Choice, Message, Tool
from atoll_client.gateway.openai_sampling import (
    failure,
    identity,
    sampling,
    usage,
    usage_wanted,
)
from atoll_client.gateway.tei import find
from atoll_client.gateway.tools import ToolChoice, with_objects
from atoll_client.tasks import Prompt, Wanted
from atoll_client.types import Chunk, ModelInfo

_TEXT_ONLY = "the models here write text"


class ChatBody(SamplingFields):
    """POST /v1/chat/completions."""

    messages: list[Message]
    logprobs: bool = False
    max_completion_tokens: int | None = Field(None, ge=1)
    tool_choice: str | Choice | None = None
    tools: list[Tool] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    audio: Annotated[Any, Refused(_TEXT_ONLY)] = None
    chat_template: Annotated[Any, Refused("the model has its own")] = None
    echo: Annotated[Any, Refused("an answer does not repeat its prompt", (False,))] = None
    function_call: Annotated[Any, Refused("it is called tool_choice now")] = None
    functions: Annotated[Any, Refused("they are called tools now")] = None
    guideline: Annotated[Any, Refused("no template has a place for it")] = None
    include_reasoning: Annotated[Any, Refused("answers are not parted", (True,))] = None
    mm_processor_kwargs: Annotated[Any, Refused(_TEXT_ONLY)] = None
    modalities: Annotated[Any, Refused(_TEXT_ONLY, (["text"],))] = None
    parallel_tool_calls: Annotated[Any, Refused("a model decides how many", (True,))] = None
    moderation: Annotated[Any, Refused("nothing is moderated")] = None
    reasoning_effort: Annotated[Any, Refused("the models here have no levels", ("none",))] = None
    tool_prompt: Annotated[Any, Refused("the template presents the tools")] = None
    verbosity: Annotated[Any, Refused("the models here have no levels", ("medium",))] = None
    web_search_options: Annotated[Any, Refused("nothing is looked up")] = None


@dataclass(frozen=True)
class _Chat:
    """One request on its way."""

    body: ChatBody
    jobs: list[Job]
    choice: ToolChoice | None
    head: dict[str, Any]
    has_usage: bool = False


async def chat(request: Request, body: ChatBody) -> Answer:
    """A choice for each of ``n`` answers."""
    request.labels["kind"] = "tgi"
    model = find(request, body.model, ("generate",))
    _check(body)
    tools = [tool.given() for tool in body.tools or ()]
    choice = ToolChoice.read(body.tools or (), body.tool_choice)
    messages = with_objects([message.given() for message in body.messages])
    prompt = Prompt(messages=messages, tools=tools if choice else None)
    job = Job(model, prompt, _options(request, body, model, choice), Wanted(logprobs=body.logprobs))
    jobs = [job.seeded(index) for index in range(body.n)]
    kind = "chat.completion.chunk" if body.stream else "chat.completion"
    head = identity(kind, body.model or model.name, "chatcmpl")
    found = _Chat(body, jobs, choice, head, usage_wanted(body))
    if body.stream:
        return Events(_events(request, found), failure)
    with openai_words(model, body, "messages"):
        chunks = await complete_all(request, jobs)
    choices = [_choice(found, index, chunk) for index, chunk in enumerate(chunks)]
    return reply({**head, "choices": choices, "usage": usage(chunks)})


def _check(body: ChatBody) -> None:
    if not body.messages:
        raise EmptyInputError("`messages` cannot be empty", param="messages")
    if body.top_logprobs and not body.logprobs:
        raise ValidationError("`top_logprobs` needs `logprobs` to be true", param="top_logprobs")
    if None not in (body.max_tokens, body.max_completion_tokens):
        raise ValidationError(
            "`max_tokens` and `max_completion_tokens` are set; expected one", param="max_tokens"
        )
    if body.max_tokens == 0:
        raise ValidationError("`max_tokens` is 0; the least allowed is 1", param="max_tokens")


def _options(
    request: Request, body: ChatBody, model: ModelInfo, choice: ToolChoice | None
) -> dict[str, Any]:
    options = sampling(body, model, request)
    # None: as many as the context holds.
    options["max_tokens"] = body.max_completion_tokens or body.max_tokens
    if body.top_logprobs:
        options["top_logprobs"] = body.top_logprobs
    if body.response_format is not None and body.tools:
        raise ValidationError("`response_format` and `tools` exclude each other")
    if choice is not None and choice.is_forced:
        name, value = json_schema(choice.schema())
        options[name] = value
    return options


def _choice(found: _Chat, index: int, chunk: Chunk) -> dict[str, Any]:
    calls = found.choice.calls(chunk.text) if found.choice else []
    message: dict[str, Any] = {"role": "assistant", "content": chunk.text}
    if calls:
        message = {"role": "assistant", "content": _beside(chunk.text), "tool_calls": calls}
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(chunk, found.body),
        "finish_reason": "tool_calls" if calls else chunk.finish_reason,
    }


def _beside(text: str) -> str | None:
    """What an answer says before its calls; None: nothing, or the calls have no tags."""
    said = ToolChoice.before(text, is_whole=True)
    return None if said == text else said.strip() or None


async def _events(request: Request, found: _Chat) -> AsyncIterator[bytes]:
    writers = [_Writer(found, index) for index in range(len(found.jobs))]
    ends: dict[int, Chunk] = {}
    nothing = {"usage": None} if found.has_usage else {}
    with openai_words(found.jobs[0].model, found.body, "messages"):
        async for index, chunk in stream_all(request, found.jobs):
            if chunk.finish_reason:
                ends[index] = chunk
            for choice in writers[index].write(chunk):
                yield dump({**found.head, "choices": [choice], **nothing})
    if found.has_usage:
        counts = usage([ends[i] for i in sorted(ends)])
        yield dump({**found.head, "choices": [], "usage": counts})
    yield b"[DONE]"


class _Writer:
    """The deltas of one answer. A text that may become a tool call is held until that is known.

    A call may follow other text, if it is tagged.
    """

    def __init__(self, found: _Chat, index: int) -> None:
        self._found, self._index = found, index
        self._held = ""
        self._has_begun = False
        self._is_plain = False

    def write(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Choices to send for one more chunk."""
        first = [] if self._has_begun else [self._delta({"role": "assistant", "content": ""})]
        self._has_begun = True
        choice = self._found.choice
        if choice is None:
            return [*first, *self._text(chunk.text, chunk)]
        self._held += chunk.text
        if chunk.finish_reason:
            return [*first, *self._end(choice, chunk)]
        if choice.is_forced or (not self._is_plain and choice.may_begin(self._held)):
            return first
        self._is_plain = True
        text = choice.before(self._held, is_whole=False)
        self._held = self._held[len(text) :]
        return [*first, *self._text(text, chunk)]

    def _end(self, choice: ToolChoice, chunk: Chunk) -> list[dict[str, Any]]:
        is_tagged = choice.before(self._held, is_whole=True) != self._held
        # Behind other text only tags make a call.
        calls = choice.calls(self._held) if is_tagged or not self._is_plain else []
        if not calls:
            return self._text(self._held, chunk)
        said = [self._delta({"content": text})] if (text := _beside(self._held)) else []
        deltas = [{"index": i, **call} for i, call in enumerate(calls)]
        return [
            *said, self._delta({"tool_calls": deltas}), self._delta({}, finish="tool_calls"),
        ]  # fmt: skip

    def _text(self, text: str, chunk: Chunk) -> list[dict[str, Any]]:
        logprobs = _logprobs(chunk, self._found.body)
        found = []
        if text or logprobs:
            found.append(self._delta({"content": text}, logprobs))
        if chunk.finish_reason:
            found.append(self._delta({}, finish=chunk.finish_reason))
        return found

    def _delta(
        self, delta: dict[str, Any], logprobs: Any = None, finish: str | None = None
    ) -> dict[str, Any]:
        return {
            "index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": finish,
        }  # fmt: skip


def _logprobs(chunk: Chunk, body: ChatBody) -> dict[str, Any] | None:
    if not body.logprobs:
        return None
    count = body.top_logprobs or 0
    content = [
        {
            **_entry(token.text, token.logprob, token.bytes),
            "top_logprobs": [_entry(t.text, t.logprob, t.bytes) for t in token.top[:count]],
        }
        for token in chunk.tokens
    ]
    return {"content": content, "refusal": None} if content else None


def _entry(text: str, logprob: float | None, data: bytes) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(data)}

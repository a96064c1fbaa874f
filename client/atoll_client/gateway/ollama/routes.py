"""Ollama's chats and texts: a line of JSON for each part of an answer, or one object."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from atoll_client.errors import AtollError, ValidationError
from atoll_client.gateway.chat_formats.chat import Chat, answered
from atoll_client.gateway.chat_formats.reader import Format
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.error_formats import OllamaError
from atoll_client.gateway.core.generation import Job
from atoll_client.gateway.core.sse import Lines
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.ollama import answers
from atoll_client.gateway.ollama.pieces import Piece, Pieces, joined, logprobs_of
from atoll_client.gateway.ollama.prompt import (
    OllamaMessages,
    chat_message,
    constraint,
    sampling,
    template_options,
    untagged,
)
from atoll_client.gateway.ollama.schemas import (
    GenerationFields,
    OllamaChatBody,
    OllamaGenerateBody,
)
from atoll_client.gateway.openai.tools import read_choice
from atoll_client.tasks import Prompt, Wanted
from atoll_client.types import Chunk, ModelInfo


@dataclass(frozen=True)
class _Asked:
    """A request that has been read. name: of the model, as the request has it."""

    name: str
    body: GenerationFields
    chat: Chat

    def line(self, piece: Piece, is_done: bool) -> Any:
        return _line(self.name, isinstance(self.body, OllamaChatBody), piece, is_done)

    def logprobs(self, chunk: Chunk) -> list[answers.OllamaLogprob]:
        return logprobs_of(chunk, self.body.top_logprobs or 0) if self.body.logprobs else []


async def chat(
    request: Request, context: Context, body: OllamaChatBody
) -> Reply[answers.OllamaChatLine] | Lines[answers.OllamaChatLine | OllamaError]:
    """POST /api/chat."""
    request.labels["kind"] = "tgi"
    name = untagged(context, body.model)
    model = context.find(request, name, ("generate",))
    if not body.messages:
        return _loaded(body.model or model.name, is_chat=True)
    found = Chat.of(
        model,
        [chat_message(message) for message in body.messages],
        [tool.given() for tool in body.tools or ()],
        read_choice(body.tools or (), None),
        {**sampling(request, body, name, model), **template_options(body, model)},
        _wanted(body),
        bound=constraint(body),
    )
    asked = _Asked(body.model or model.name, body, found)
    if body.stream:
        return Lines(_lines(request, context, asked), _failure)
    return reply(await _whole(request, context, asked))


async def generate(
    request: Request, context: Context, body: OllamaGenerateBody
) -> Reply[answers.OllamaTextLine] | Lines[answers.OllamaTextLine | OllamaError]:
    """POST /api/generate: the prompt is the user's message, unless it is raw."""
    request.labels["kind"] = "tgi"
    name = untagged(context, body.model)
    model = context.find(request, name, ("generate",))
    if not body.prompt and not body.suffix:
        return _loaded(body.model or model.name, is_chat=False)
    options = sampling(request, body, name, model)
    has_template = bool(model.facts.get("has_chat_template", True))
    if body.raw or body.suffix or not has_template:
        found = _text(body, model, options, has_template)
    else:
        messages = [{"role": "user", "content": body.prompt}]
        if body.system:
            messages.insert(0, {"role": "system", "content": body.system})
        options |= template_options(body, model)
        found = Chat.of(model, messages, [], None, options, _wanted(body), bound=constraint(body))
    asked = _Asked(body.model or model.name, body, found)
    if body.stream:
        return Lines(_lines(request, context, asked), _failure)
    return reply(await _whole(request, context, asked))


def _text(
    body: OllamaGenerateBody, model: ModelInfo, options: dict[str, Any], has_template: bool
) -> Chat:
    """The continuation of a text.

    Raises:
        ValidationError: a field is for the chat template.
    """
    for field in ("system", "think"):
        if getattr(body, field):
            reason = (
                "with `raw` or `suffix` the prompt is not put into the chat template"
                if has_template
                else f"{model.name!r} has no chat template"
            )
            raise ValidationError.of(field, f"is set, but {reason}")
    bound = constraint(body)
    found = {**options, **({} if bound is None else dict([bound]))}
    if body.suffix:
        found["suffix"] = body.suffix
    return Chat(Job(model, Prompt(text=body.prompt), found, _wanted(body)), Format(), 0)


def _wanted(body: GenerationFields) -> Wanted:
    """What the answer contains.

    Raises:
        ValidationError: alternatives without log-probabilities.
    """
    if body.top_logprobs and not body.logprobs:
        raise ValidationError.of("top_logprobs", "needs `logprobs` to be true")
    return Wanted(logprobs=body.logprobs)


async def _whole(request: Request, context: Context, asked: _Asked) -> Any:
    with OllamaMessages(asked.body):
        answer = answered(request, context, asked.chat, asked.chat.answer(), is_stream=False)
        async with contextlib.aclosing(answer):
            pairs = [pair async for pair in answer]
    events = [event for _, some in pairs for event in some]
    line = asked.line(joined(Pieces().write(events)), is_done=True)
    line |= _end(request, pairs[-1][0], None)
    found = [entry for chunk, _ in pairs for entry in asked.logprobs(chunk)]
    return {**line, "logprobs": found} if found else line


async def _lines(request: Request, context: Context, asked: _Asked) -> AsyncIterator[Any]:
    """Log-probabilities of tokens whose text is still held back come with the next line."""
    pieces, first = Pieces(), 0.0
    pending: list[answers.OllamaLogprob] = []
    answer = answered(request, context, asked.chat, asked.chat.answer(), is_stream=True)
    with OllamaMessages(asked.body):
        async with contextlib.aclosing(answer):
            async for chunk, events in answer:
                first = first or time.perf_counter()
                pending += asked.logprobs(chunk)
                lines = [asked.line(piece, is_done=False) for piece in pieces.write(events)]
                if chunk.finish_reason:
                    end = asked.line(Piece(), is_done=True)
                    lines.append(end | _end(request, chunk, first))
                for line in lines:
                    yield {**line, "logprobs": pending} if pending else line
                    pending = []


def _end(request: Request, chunk: Chunk, first: float | None) -> answers.Timed:
    """first: when the first part of a stream came, on ``perf_counter``."""
    now = time.perf_counter()
    found: answers.Timed = {
        "done_reason": "length" if chunk.finish_reason == "length" else "stop",
        "total_duration": _ns(now - request.started),
        "load_duration": 0,
        "prompt_eval_count": chunk.num_input_tokens,
        "eval_count": chunk.num_output_tokens,
        "eval_duration": _ns(now - (first or request.started)),
    }
    if first is not None:
        found["prompt_eval_duration"] = _ns(first - request.started)
    return found


def _ns(seconds: float) -> int:
    return round(1e9 * seconds)


def _loaded(name: str, *, is_chat: bool) -> Reply[Any]:
    return reply({**_line(name, is_chat, Piece(), True), "done_reason": "load"})


def _line(name: str, is_chat: bool, piece: Piece, is_done: bool) -> dict[str, Any]:
    now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
    head = {"model": name, "created_at": now}
    thinking = {"thinking": piece.thinking} if piece.thinking else {}
    if not is_chat:
        return {**head, "response": piece.content, **thinking, "done": is_done}
    message: dict[str, Any] = {"role": "assistant", "content": piece.content, **thinking}
    if piece.calls:
        message["tool_calls"] = piece.calls
    return {**head, "message": message, "done": is_done}


def _failure(error: AtollError) -> OllamaError:
    return {"error": str(error)}

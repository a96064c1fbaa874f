"""Anthropic's messages, streamed or whole, and the count of a prompt's tokens."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

from atoll_client.errors import AtollError
from atoll_client.gateway.anthropic import answers
from atoll_client.gateway.anthropic.blocks import Blocks, stop_of, usage_of, whole
from atoll_client.gateway.anthropic.errors import AnthropicMessages
from atoll_client.gateway.anthropic.prompt import (
    chat_messages,
    choice_of,
    functions_of,
    template_options,
)
from atoll_client.gateway.anthropic.schemas import CountTokensBody, MessagesBody
from atoll_client.gateway.chat_formats.chat import Chat, answered
from atoll_client.gateway.chat_formats.constraints import json_schema
from atoll_client.gateway.chat_formats.events import Ended, Event
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.error_formats import AnthropicError, anthropic_error
from atoll_client.gateway.core.generation import adapter_of, given
from atoll_client.gateway.core.sse import PING, Events
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.tasks import Wanted
from atoll_client.types import Chunk, ModelInfo


@dataclass(frozen=True)
class _Asked:
    """A request that has been read. head: the answer before it has begun."""

    body: MessagesBody
    chat: Chat
    head: answers.AssistantMessage

    @property
    def messages(self) -> AnthropicMessages:
        return AnthropicMessages(self.chat.job.model, self.body)

    def answer(
        self, request: Request, context: Context, *, is_stream: bool
    ) -> contextlib.aclosing[AsyncGenerator[tuple[Chunk, list[Event | Ended]], None]]:
        answer = self.chat.answer()
        return contextlib.aclosing(
            answered(request, context, self.chat, answer, is_stream=is_stream)
        )

    def blocks(self) -> Blocks:
        thinking = self.body.thinking
        return Blocks(self.head["id"], thinking is None or thinking.display != "omitted")

    def stop(self, ended: Ended, chunk: Chunk) -> answers.Stop:
        return stop_of(ended.reason, chunk, self.body.stop_sequences or ())


async def messages(
    request: Request, context: Context, body: MessagesBody
) -> Reply[answers.AssistantMessage] | Events[answers.MessageEvent | AnthropicError]:
    """POST /v1/messages: an answer to the conversation, or the rest of its last message."""
    request.labels["kind"] = "tgi"
    model = context.find(request, body.model, ("generate",))
    asked = _read(request, model, body)

    def failed(error: AtollError) -> AnthropicError:
        return anthropic_error(error, request.request_id)

    if body.stream:
        return Events(_events(request, context, asked), failed, is_named=True, pulse=PING)
    with asked.messages:
        async with asked.answer(request, context, is_stream=False) as answer:
            pairs = [pair async for pair in answer]
    events = [event for _, some in pairs for event in some]
    chunk = pairs[-1][0]
    (ended,) = [event for event in events if isinstance(event, Ended)]
    found: answers.AssistantMessage = {
        **asked.head, "content": whole(asked.blocks().write(events)),
        **asked.stop(ended, chunk), "usage": usage_of(chunk),
    }  # fmt: skip
    return reply(found)


async def count_tokens(
    request: Request, context: Context, body: CountTokensBody
) -> Reply[answers.TokenCount]:
    """POST /v1/messages/count_tokens: of the prompt that the chat template makes of a request."""
    request.labels["kind"] = "tgi"
    model = context.find(request, body.model, ("generate",))
    tools = body.tools or ()
    choice = choice_of(tools, body.tool_choice)
    question = {
        "op": "chat", "messages": chat_messages(body),
        "tools": functions_of(tools) if choice else None, "options": template_options(model, body),
    }  # fmt: skip
    with AnthropicMessages(model, body):
        answer = await context.pool.ask(model.name, question)
    return reply({"input_tokens": len(answer["tokens"])})


def _read(request: Request, model: ModelInfo, body: MessagesBody) -> _Asked:
    tools = body.tools or ()
    choice = choice_of(tools, body.tool_choice)
    form = body.output_config.format if body.output_config else None
    is_single = body.tool_choice is not None and body.tool_choice.disable_parallel_tool_use
    chat = Chat.of(
        model,
        chat_messages(body),
        functions_of(tools),
        choice,
        {**_sampling(request, model, body), **template_options(model, body)},
        Wanted(num_cached_tokens=True),
        bound=None if form is None else json_schema(form.schema_),
        max_calls=1 if is_single else None,
    )
    head: answers.AssistantMessage = {
        "id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant",
        "model": body.model or model.name, "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": usage_of(Chunk("")),
    }  # fmt: skip
    return _Asked(body, chat, head)


def _sampling(request: Request, model: ModelInfo, body: MessagesBody) -> dict[str, Any]:
    """The model's sampling options. Anthropic's default temperature is 1."""
    temperature = 1.0 if body.temperature is None else body.temperature
    return given(
        (
            ("max_tokens", body.max_tokens),
            ("temperature", temperature),
            ("do_sample", temperature > 0),
            ("top_k", body.top_k),
            ("top_p", body.top_p),
            ("stop", body.stop_sequences),
            ("adapter_id", adapter_of(request, body.model, model)),
        )
    )


async def _events(
    request: Request, context: Context, asked: _Asked
) -> AsyncIterator[answers.MessageEvent]:
    blocks, has_begun = asked.blocks(), False
    with asked.messages:
        async with asked.answer(request, context, is_stream=True) as answer:
            async for chunk, events in answer:
                if not has_begun:
                    has_begun = True
                    head: answers.AssistantMessage = {**asked.head, "usage": usage_of(chunk)}
                    yield {"type": "message_start", "message": head}
                for event in blocks.write(events):
                    yield event
                for ended in events:
                    if isinstance(ended, Ended):
                        stop = asked.stop(ended, chunk)
                        yield {"type": "message_delta", "delta": stop, "usage": usage_of(chunk)}
    yield {"type": "message_stop"}

"""POST /v1/responses, streamed or whole, and the routes of stored responses."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, NoReturn

from atoll_client.errors import AtollError, NotFound, ValidationError
from atoll_client.gateway.chat_formats.answer import Answer
from atoll_client.gateway.chat_formats.chat import answered
from atoll_client.gateway.chat_formats.events import Ended, Event
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.queries import NoQuery, read_query
from atoll_client.gateway.core.sse import Events
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.responses.answers import (
    DeletedResponse,
    InputTokens,
    ItemList,
    ModelResponse,
)
from atoll_client.gateway.responses.asked import (
    Asked,
    Conversation,
    new_response,
    read_request,
    variables_of,
    wanted_summary,
)
from atoll_client.gateway.responses.errors import ResponseMessages
from atoll_client.gateway.responses.events import StreamEvent
from atoll_client.gateway.responses.kinds import NOT_COMPACTED
from atoll_client.gateway.responses.queries import PageQuery, StoredQuery
from atoll_client.gateway.responses.schemas import (
    ENCRYPTED,
    LOGPROBS,
    InputTokensBody,
    ResponseBody,
)
from atoll_client.gateway.responses.store import Stored
from atoll_client.gateway.responses.tools import check_grammars
from atoll_client.gateway.responses.truncation import shortened
from atoll_client.gateway.responses.writer import Writer
from atoll_client.types import Chunk


@dataclass
class _Storing:
    """Stores one response: while it is streamed, and when it has ended.

    stored: as it was stored last. A client may have deleted it since, which holds.
    """

    context: Context
    asked: Asked
    stored: Stored | None = None

    def put(self, response: ModelResponse) -> None:
        is_deleted = self.stored is not None and self.stored.is_deleted
        if self.asked.is_stored and not is_deleted:
            told = self.asked.conversation
            self.stored = self.context.stored.add(
                told.owner, response, told.items, told.previous, told.session
            )


async def create(
    request: Request, context: Context, body: ResponseBody
) -> Reply[ModelResponse] | Events[StreamEvent]:
    """A response to an input, and to the conversation that it goes on with."""
    request.labels["kind"] = "tgi"
    model = context.find(request, body.model, ("generate",))
    asked = read_request(request, context, model, body)
    await check_grammars(context, model, asked.conversation.tools)
    answer = asked.chat.answer()
    include = body.include or ()
    writer = Writer(
        new_response(asked),
        answer,
        tools={tool.shown: tool for tool in asked.conversation.tools},
        num_logprobs=(body.top_logprobs or 0) if LOGPROBS in include else None,
        has_summary=wanted_summary(body) is not None,
        is_encoded=ENCRYPTED in include,
    )
    storing = _Storing(context, asked)
    events = _events(request, storing, answer, writer)
    if body.stream:
        return Events(events, lambda error: _failed(storing, writer, error), is_named=True)
    async with contextlib.aclosing(events):
        async for _ in events:
            pass
    return reply(writer.response)


async def _events(
    request: Request, storing: _Storing, answer: Answer, writer: Writer
) -> AsyncGenerator[StreamEvent, None]:
    """The events of a response, which is stored before its last event."""
    context, asked = storing.context, storing.asked
    chunks = _chunks(request, context, asked, answer)
    try:
        with ResponseMessages(asked.chat.job.model, asked.body):
            async with contextlib.aclosing(chunks):
                async for chunk, events in chunks:
                    if not writer.has_begun:
                        if asked.body.stream:
                            storing.put(writer.response)
                        for one in writer.begin():
                            yield one
                    for one in writer.write(chunk, events):
                        if writer.response["status"] != "in_progress":
                            storing.put(writer.response)
                        yield one
    finally:
        if writer.response["status"] == "in_progress":
            context.stored.drop(asked.conversation.owner, writer.response["id"])


async def _chunks(
    request: Request, context: Context, asked: Asked, answer: Answer
) -> AsyncGenerator[tuple[Chunk, list[Event | Ended]], None]:
    """The chunks of the answer; with ``truncation``, the answer to a shorter conversation."""
    chat = asked.chat
    while True:
        try:
            chunks = answered(
                request, context, chat, answer, is_stream=asked.body.stream, by_token=True
            )
            async with contextlib.aclosing(chunks):
                async for pair in chunks:
                    yield pair
            return
        except ValidationError as error:
            # It is refused before the first chunk, or not at all.
            shorter = shortened(chat, str(error)) if asked.body.truncation == "auto" else None
            if shorter is None:
                raise
            chat = shorter


def _failed(storing: _Storing, writer: Writer, error: AtollError) -> StreamEvent:
    event = writer.failed(error)
    if writer.has_begun:
        storing.put(writer.response)
    return event


async def input_tokens(
    request: Request, context: Context, body: InputTokensBody
) -> Reply[InputTokens]:
    """The number of tokens of the prompt that a request would have."""
    request.labels["kind"] = "tgi"
    model = context.find(request, body.model, ("generate",))
    told = Conversation.read(request, context, body)
    variables = variables_of(body)
    question = {
        "op": "chat", "messages": told.messages,
        "tools": told.functions if told.choice is not None else None,
        "options": {"chat_template_kwargs": variables} if variables else {},
    }  # fmt: skip
    with ResponseMessages(model, body):
        prompt = await context.pool.ask(model.name, question)
    return reply({"object": "response.input_tokens", "input_tokens": len(prompt["tokens"])})


async def retrieve(request: Request, context: Context, body: None) -> Reply[ModelResponse]:
    """A stored response."""
    read_query(request, StoredQuery, ("include",))
    return reply(_found(request, context).response)


async def delete(request: Request, context: Context, body: None) -> Reply[DeletedResponse]:
    """Deletes a stored response. Those that follow it keep what they need of it."""
    read_query(request, NoQuery)
    found = _found(request, context)
    found.is_deleted = True
    name = found.response["id"]
    context.stored.drop(found.owner, name)
    answer: DeletedResponse = {"id": name, "object": "response", "deleted": True}
    return reply(answer)


async def cancel(request: Request, context: Context, body: None) -> NoReturn:
    """Refused: a response that is not in the background ends with its request."""
    read_query(request, NoQuery)
    _found(request, context)
    raise ValidationError("Cannot cancel a synchronous response.")


async def compact(request: Request, context: Context, body: None) -> NoReturn:
    """Refused: a shorter form of a conversation is not made."""
    raise ValidationError(
        f'{request.route} is not supported: {NOT_COMPACTED}; `truncation` "auto" leaves out the '
        "oldest items of one that is too long"
    )


async def input_items(request: Request, context: Context, body: None) -> Reply[ItemList]:
    """A page of what the model was given, the conversation before included."""
    page = read_query(request, PageQuery, ("include",))
    items: list[dict[str, Any]] = _found(request, context).items()
    if page.order == "desc":
        items.reverse()
    if page.after is not None:
        place = next((i for i, one in enumerate(items) if one["id"] == page.after), None)
        if place is None:
            raise ValidationError.of("after", f"is {page.after!r}, which is no item of the input")
        items = items[place + 1 :]
    shown = items[: page.limit]
    answer: ItemList = {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > page.limit,
    }
    return reply(answer)


def _found(request: Request, context: Context) -> Stored:
    name = request.path_params["response_id"]
    found = context.stored.get(context.keys.owner(request.headers), name)
    if found is None:
        raise NotFound(
            f"Response with id '{name}' not found.", param="response_id", code="response_not_found"
        )
    return found

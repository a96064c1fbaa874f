"""HTTP requests with the state that the gateway keeps for each, and complete responses.

Both extend Starlette's classes. Event streams are in ``sse``, routes in ``route``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import orjson
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from atoll_client.errors import TooLarge
from atoll_client.gateway.core.headers import (
    announced_bytes,
    joined,
    read_priority,
    request_id,
    trace_context,
)
from atoll_client.kserve import CLIENT

JSON = "application/json"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
TEXT = "text/plain"
_DUMP = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
T = TypeVar("T")
_KEY = "atoll.request"
# Fields by which OpenAI's and vLLM's clients say which prompts begin alike.
_SESSIONS = ("prompt_cache_key", "user")
# A body of this size fits into the socket's buffer.
_LARGE_BYTES = 65_536


@dataclass
class Usage:
    """What a request has taken so far, for logs and spans. first_s: until its first chunk."""

    num_input_tokens: int = 0
    num_output_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)
    first_s: float | None = None


class Reader(Protocol):
    """Who limits the time that a body may take."""

    def came(self, num_bytes: int) -> None:
        """A piece of the body has come."""

    def begin(self) -> None:
        """The body is complete."""


class Request(StarletteRequest):
    """An HTTP request, or a gRPC call in the form of one.

    Attributes:
        raw: the body, once it has been read.
        model, version: from the path; None and "" if the path names none.
        route: the path of the route. dialect: the format of errors, see ``Route``.
        is_public: a probe, for example, which is not counted.
        client_name: who sends it, see ``clients``; "" until its key has been checked.
        labels: set by handlers for metrics and spans. usage: for logs and spans.
        trace: the ``traceparent`` of the gateway's own span; None: the client's is passed on.
        is_left: the client has closed the connection or has stopped reading.
        started, server_started: when it arrived, and when a server was asked, on ``perf_counter``.
        deadline_s: the timeout of a gRPC client.
        unknown_fields: fields of the body that were ignored.
        body_priority: of a body that has the field ``priority``.
        parsed: the body as the route's model, once it has been read.
        kept_session: of the conversation that the request goes on with.
        reader: is told of pieces of a body that is not read as a whole.
    """

    def __init__(self, scope: Scope, *way: Any) -> None:
        super().__init__(scope, *way)
        self.path: str = scope["path"]
        self.request_id = request_id(self.headers)
        self.started = self.server_started = time.perf_counter()
        self.raw = b""
        self.model: str | None = None
        self.version, self.route, self.dialect = "", "", ""
        self.client_name = ""
        self.is_public = self.is_left = False
        self.labels: dict[str, str] = {}
        self.trace: dict[str, str] | None = None
        self.deadline_s: float | None = None
        self.unknown_fields: list[str] = []
        self.body_priority: int | None = None
        self.parsed: Any = None
        self.kept_session = ""
        self.usage = Usage()
        self.reader: Reader | None = None

    @classmethod
    def of(cls, scope: Scope) -> Request:
        """The request of an ASGI scope."""
        found: Request = scope[_KEY]
        return found

    def enter(self) -> None:
        """Attaches the request to its scope, where ``of`` finds it."""
        self.scope[_KEY] = self

    def leave(self) -> None:
        """Detaches it: a reference cycle would be freed only by the garbage collector."""
        del self.scope[_KEY]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The gRPC metadata of every call to a server: trace context, the request's id, client."""
        trace = self.trace or trace_context(self.headers)
        client = [(CLIENT, self.client_name)] if self.client_name else []
        return (*trace.items(), ("x-request-id", self.request_id), *client)

    @property
    def priority(self) -> int | None:
        """By the body or, if it has none, by the header ``x-priority``; None: by neither.

        Raises:
            ValidationError: the header is wrong.
        """
        return read_priority(self.headers) if self.body_priority is None else self.body_priority

    @property
    def session_name(self) -> str:
        """What the client calls the conversation, or its prompts' beginning; "" if nothing.

        Of several servers, requests of the same session go to the same one.
        """
        named = joined(self.headers, "x-session-id")
        of_body = (getattr(self.parsed, field, None) for field in _SESSIONS)
        return named or next(filter(None, of_body), None) or self.kept_session

    def part(self, raw: bytes = b"") -> Request:
        """A request inside this one, with its own body, labels and start time."""
        found = copy.copy(self)
        found.raw, found.labels, found.started = raw, {}, time.perf_counter()
        return found

    async def read(self, limit: int, hold: Callable[[int], None]) -> None:
        """Reads the whole body into ``raw`` and calls ``hold`` with the size of each piece.

        Raises:
            TooLarge: the body has more than ``limit`` bytes. ClientDisconnect: the client has gone.
            Whatever ``hold`` raises.
        """
        # Not a list of pieces: a million tiny ones would take a hundred times their size.
        body = bytearray()
        async for piece in self.pieces(limit):
            hold(len(piece))
            body += piece
        self.raw = bytes(body)

    async def pieces(self, limit: int) -> AsyncIterator[bytes]:
        """The body as it comes. Raises as ``read`` does."""
        announced = announced_bytes(self.headers)
        if announced > limit:
            raise TooLarge(f"the body has {announced} bytes; the limit is {limit}")
        num_bytes = 0
        async for piece in self.stream():
            num_bytes += len(piece)
            if num_bytes > limit:
                raise TooLarge(f"the body has more than {limit} bytes")
            if self.reader is not None:
                self.reader.came(len(piece))
            yield piece
        if self.reader is not None:
            self.reader.begin()


class Reply(Response, Generic[T]):
    """A complete response whose body is a T in JSON.

    The call returns when most of a large body has been read by the client.
    """

    media_type = JSON

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= _LARGE_BYTES:
            await super().__call__(scope, receive, send)
            return
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Text(Reply[str]):
    """A response in plain text."""

    media_type = TEXT


class Page(Reply[str]):
    """A response in HTML."""

    media_type = "text/html"


def dump(value: Any) -> bytes:
    """JSON; numpy arrays become lists."""
    return orjson.dumps(value, option=_DUMP)


def reply(value: T, headers: Mapping[str, str] | None = None, status: int = 200) -> Reply[T]:
    """A JSON response."""
    return Reply(dump(value), status, headers)


def nothing(headers: Mapping[str, str] | None = None) -> Text:
    """An empty response: the status says everything."""
    return Text(b"", headers={"content-type": TEXT, **(headers or {})})

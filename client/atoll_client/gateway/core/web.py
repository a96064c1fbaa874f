"""What routes are made of: requests with what the gateway knows of them, whole answers, the table.

Requests and answers are Starlette's; streams of events are in ``sse``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from atoll_client.errors import TooLarge
from atoll_client.gateway.core.headers import announced_bytes, request_id, trace_context
from atoll_client.gateway.core.settings import GatewaySettings

JSON = "application/json"
EVENTS = "text/event-stream"
TEXT = "text/plain"
_DUMP = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_KEY = "atoll.request"
# What a socket takes at once.
_LARGE_BYTES = 65_536


class Request(StarletteRequest):
    """An HTTP request, or a call over gRPC as the request that it would be.

    Attributes:
        raw: the body, once it has been read.
        model: from the path ``/{model}/...``, else None. version: a model's, if the path names one.
        route: the path that it matched. dialect: how errors look: openai, tei, tgi or kserve.
        is_public: a probe or the like, which is not counted.
        labels: filled by the handler for metrics and spans.
        trace: ``traceparent`` of the gateway's own span, if it makes one; else the client's is
            used.
        is_left: its client has closed the connection, or does not read.
        deadline_s: how long a gRPC client waits.
        unknown_fields: of its body, left out.
    """

    def __init__(self, scope: Scope, *way: Any) -> None:
        super().__init__(scope, *way)
        self.path: str = scope["path"]
        self.request_id = request_id(self.headers)
        self.started = time.perf_counter()
        self.raw = b""
        self.model: str | None = None
        self.version, self.route, self.dialect = "", "", ""
        self.is_public = self.is_left = False
        self.labels: dict[str, str] = {}
        self.trace: dict[str, str] | None = None
        self.deadline_s: float | None = None
        self.unknown_fields: list[str] = []

    @classmethod
    def of(cls, scope: Scope) -> Request:
        """The one that the application made of a scope."""
        found: Request = scope[_KEY]
        return found

    def enter(self) -> None:
        """Makes it the one of its scope."""
        self.scope[_KEY] = self

    def leave(self) -> None:
        """Undoes that: two that hold each other would wait for the garbage collector."""
        del self.scope[_KEY]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call to a server: whose trace it belongs to."""
        return tuple((self.trace or trace_context(self.headers)).items())

    def part(self, raw: bytes = b"") -> Request:
        """One of several requests in this one, with a body, a clock and labels of its own."""
        found = copy.copy(self)
        found.raw, found.labels, found.started = raw, {}, time.perf_counter()
        return found

    async def read(self, limit: int, hold: Callable[[int], None]) -> None:
        """Reads the whole body into ``raw``. ``hold`` is told of every byte as it comes.

        Raises:
            TooLarge: it has more than ``limit`` bytes. ClientDisconnect: it will never be complete.
            What ``hold`` raises.
        """
        announced = announced_bytes(self.headers)
        if announced > limit:
            raise TooLarge(f"the body has {announced} bytes; the limit is {limit}")
        # One buffer: a list of a million pieces would take a hundred times their bytes.
        body = bytearray()
        async for piece in self.stream():
            if len(body) + len(piece) > limit:
                raise TooLarge(f"the body has more than {limit} bytes")
            hold(len(piece))
            body += piece
        self.raw = bytes(body)


class Reply(Response):
    """A whole answer. Of a large one, it returns when the client has taken most."""

    media_type = JSON

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= _LARGE_BYTES:
            await super().__call__(scope, receive, send)
            return
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


# Of a request, the gateway's context and the body that was read.
Handler = Callable[[Request, Any, Any], Awaitable[Response]]


@dataclass(frozen=True, eq=False)
class Route:
    """One route of one dialect. ``body``: how its JSON is read; None for routes without one.

    pattern: ``path`` with the kinds of its parameters, as Starlette writes them, where they are not
    all plain. dialect: openai, tei, tgi or kserve: how errors look. public: answered without an API
    key, and not counted. uncounted: answered however many requests are held, but with a key.
    takes_tensors: its body may hold binary tensors, for which there is a limit apart. answers: what
    it answers with, by content type, as types that pydantic knows; that of events is the data of
    one. bodies: the kinds of body that it tells apart itself, where ``body`` is any.
    """

    method: str
    path: str
    handler: Handler
    dialect: str
    summary: str
    body: type[BaseModel] | None = None
    public: bool = False
    uncounted: bool = False
    example: Any = None
    takes_tensors: bool = False
    answers: Mapping[str, Any] = field(default_factory=dict)
    bodies: tuple[type[BaseModel], ...] = ()
    pattern: str = ""

    @property
    def kinds(self) -> tuple[type[BaseModel], ...]:
        """Every kind of body."""
        return self.bodies or (() if self.body is None else (self.body,))

    def body_limit(self, settings: GatewaySettings) -> int:
        """Bytes of the largest body."""
        return settings.tensor_payload_limit if self.takes_tensors else settings.payload_limit


def dump(value: Any) -> bytes:
    """JSON; numpy arrays become lists."""
    return orjson.dumps(value, option=_DUMP)


def reply(value: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> Reply:
    """A JSON answer."""
    return Reply(dump(value), status, headers)


def nothing(headers: Mapping[str, str] | None = None) -> Reply:
    """An empty answer, of which the status says all."""
    return Reply(b"", headers={"content-type": TEXT, **(headers or {})})

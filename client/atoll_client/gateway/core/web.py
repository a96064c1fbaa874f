"""What routes are made of: a request that has been read, and the replies that can be given to it.

Thin by intent: on a short embedding every layer between the socket and the model shows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import BaseModel

from atoll_client.gateway.core.headers import trace_context
from atoll_client.gateway.core.settings import GatewaySettings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = "application/json"
EVENTS = "text/event-stream"
TEXT = "text/plain"
_DUMP = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


@dataclass(slots=True)
class Request:
    """One HTTP request. ``model``: from the path ``/{model}/...``, else None.

    route: what it matched. labels: filled by the handler for metrics and spans.
    trace: ``traceparent`` of the gateway's own span, if it makes one; else the client's is used.
    is_left: its client has closed the connection. version: a model's, if the path names one.
    query: what follows the path's question mark. deadline_s: how long a gRPC client waits.
    unknown_fields: of its body, left out.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    request_id: str
    started: float
    model: str | None = None
    route: Route | None = None
    labels: dict[str, str] = field(default_factory=dict)
    trace: Mapping[str, str] | None = None
    is_left: bool = False
    version: str = ""
    query: bytes = b""
    deadline_s: float | None = None
    unknown_fields: list[str] = field(default_factory=list)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call to a server: whose trace it belongs to."""
        return tuple((self.trace or trace_context(self.headers)).items())


@dataclass(slots=True)
class Reply:
    """A whole answer."""

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Events:
    """Server-sent events: each item is the data of one. ``headers`` are sent before the first.

    The first item is awaited before anything is sent, so that a refused request still gets its
    status. ``on_error`` makes the last event of a stream that fails later.
    """

    items: AsyncIterator[bytes]
    on_error: Callable[[Exception], bytes]
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Reply | Events
# Of a request, the gateway's context and the body that was read.
Handler = Callable[[Request, Any, Any], Awaitable[Answer]]


@dataclass(frozen=True, eq=False)
class Route:
    """One route of one dialect. ``body``: how its JSON is read; None for routes without one.

    dialect: openai, tei, tgi or kserve: how errors look. public: answered without an API key, and
    not counted. uncounted: answered however many requests are held, but with a key. takes_tensors:
    its body may hold binary tensors, for which there is a limit apart. answers: what it answers
    with, by content type, as types that pydantic knows; that of events is the data of one. bodies:
    the kinds of body that it tells apart itself, where ``body`` is any.
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
    return Reply(dump(value), status, headers=headers or {})

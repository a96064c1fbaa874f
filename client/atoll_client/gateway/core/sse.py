"""Streams: server-sent events, with what keeps a silent connection open, or lines of JSON.

The status is held back until the first event, so that a refused request gets its own, but no longer
than proxies leave a silent connection open. After that, a failure is an event like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Generic, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from atoll_client.errors import AtollError, NotReady
from atoll_client.gateway.core.error_formats import as_ours
from atoll_client.gateway.core.web import EVENTS, LINES, Request, dump

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Many proxies close connections that have been silent for a minute.
_SILENCE_S = 15.0
# A comment, and what Anthropic sends in its place.
_COMMENT = b":\n\n"
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


class Events(StreamingResponse, Generic[T]):
    """A stream of events, each with a T in JSON as its data.

    Args:
        failed: the last event of a stream that fails.
        end: the data of an event after the last one of a complete stream, e.g. ``[DONE]``.
        is_named: each event also has the name that its member ``type`` says.
        pulse: is sent whenever nothing has been sent for a while.
        headers: in addition to those of every stream.
    """

    media_type = EVENTS

    def __init__(
        self,
        items: AsyncIterator[T],
        failed: Callable[[AtollError], T],
        headers: Mapping[str, str] | None = None,
        end: bytes = b"",
        *,
        is_named: bool = False,
        pulse: bytes = _COMMENT,
    ) -> None:
        # A buffering proxy would deliver the stream in one piece.
        own = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__((), headers={**own, **(headers or {})})
        self._items, self._failed, self._end = items, failed, end
        self._is_named, self._pulse = is_named, pulse
        self._has_begun = False
        self._last = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream.

        Raises:
            Exception: what the first event raised, before anything was sent.
        """
        request = Request.of(scope)
        pulse = asyncio.create_task(self._keep_alive(send))
        try:
            async with contextlib.aclosing(self._items):  # type: ignore[type-var]
                async for item in self._items:
                    await self._write(send, self._event(item))
            if self._end:
                await self._write(send, b"data: " + self._end + b"\n\n")
        except (Exception, asyncio.CancelledError) as error:
            if request.is_left or not self._has_begun:
                raise
            await self._write(send, self._event(self._failure(request, error)))
        finally:
            pulse.cancel()
        await self._begin(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _event(self, item: T) -> bytes:
        data = b"data: " + dump(item) + b"\n\n"
        if not self._is_named:
            return data
        kind: Any = item
        return b"event: " + str(kind["type"]).encode() + b"\n" + data

    def _failure(self, request: Request, error: BaseException) -> T:
        """The event that ends a stream early."""
        if not isinstance(error, Exception):
            return self._failed(ending())
        if not isinstance(error, AtollError):
            logger.error("request %s: %s", request.request_id, request.path, exc_info=error)
        request.labels["error"] = as_ours(error).error_type
        return self._failed(as_ours(error))

    async def _write(self, send: Send, data: bytes) -> None:
        self._last = time.monotonic()
        await self._begin(send)
        await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _begin(self, send: Send) -> None:
        if not self._has_begun:
            self._has_begun = True
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})

    async def _keep_alive(self, send: Send) -> None:
        """Sends the pulse whenever nothing has been sent for a while."""
        while True:
            await asyncio.sleep(self._last + _SILENCE_S - time.monotonic())
            if time.monotonic() >= self._last + _SILENCE_S:
                await self._write(send, self._pulse)


class Lines(Events[T]):
    """A line of JSON for each item, as Ollama sends them. Nothing can be sent between them."""

    media_type = LINES

    def __init__(self, items: AsyncIterator[T], failed: Callable[[AtollError], T]) -> None:
        super().__init__(items, failed, pulse=b"")

    def _event(self, item: T) -> bytes:
        return dump(item) + b"\n"


def ending() -> NotReady:
    """The error of requests that are still open when the process has to end."""
    return NotReady("the gateway is shutting down")

"""A stream of server-sent events on its way to the client, kept alive while it has nothing to say.

The status is held back until the first event, so that a refusal has its own; but not for longer
than proxies leave a silent connection open. After that a failure is an event like any other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from atoll_client.gateway.core.web import Events, Send

# Well below the minute after which many proxies end what is silent.
_SILENCE_S = 15.0
_COMMENT = b":\n\n"

Start = Callable[[int, MutableMapping[str, str]], MutableMapping[str, Any]]


class EventStream:
    """``async with``: looks after silence inside; ``write`` events, then ``end``.

    on_stuck: called when the client has not taken an event for ``write_timeout_s``. Until it takes
    one, no other is asked for, so that one stream holds what a socket holds.
    """

    def __init__(
        self,
        answer: Events,
        send: Send,
        start: Start,
        *,
        write_timeout_s: float,
        on_stuck: Callable[[], None],
    ) -> None:
        self._answer, self._send, self._start = answer, send, start
        self._write_timeout_s, self._on_stuck = write_timeout_s, on_stuck
        self._sending_since: float | None = None
        self.has_begun = False
        self._last = time.monotonic()
        self._comment: asyncio.Task[None] | None = None

    async def __aenter__(self) -> EventStream:
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._interval_s, self._look)
        return self

    async def __aexit__(self, *reason: object) -> None:
        self._rest()

    async def write(self, data: bytes) -> None:
        """One event."""
        self._last = time.monotonic()
        await self._begin()
        await self._body(b"data: " + data + b"\n\n")

    async def end(self) -> None:
        """Nothing follows."""
        if self._comment is not None:
            self._comment.cancel()
        await self._begin()
        self._sending_since = time.monotonic()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self._rest()

    async def _begin(self) -> None:
        if self.has_begun:
            return
        self.has_begun = True
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            # A proxy that buffers would make a stream of one piece.
            "x-accel-buffering": "no",
            **self._answer.headers,
        }
        await self._send(self._start(200, headers))

    async def _body(self, data: bytes) -> None:
        self._sending_since = time.monotonic()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._sending_since = None

    @property
    def _interval_s(self) -> float:
        return min(_SILENCE_S, self._write_timeout_s)

    def _look(self) -> None:
        """Every few seconds; the timer is not set anew for each of many events."""
        now = time.monotonic()
        since = self._sending_since
        if since is not None:
            if now - since >= self._write_timeout_s:
                self._on_stuck()
            else:
                self._timer = self._loop.call_later(self._interval_s, self._look)
            return
        silent = now - self._last
        if silent >= _SILENCE_S:
            self._last, silent = time.monotonic(), 0.0
            self._comment = self._loop.create_task(self._say_nothing())
        rest_s = min(_SILENCE_S - silent, self._interval_s)
        self._timer = self._loop.call_later(rest_s, self._look)

    async def _say_nothing(self) -> None:
        await self._begin()
        await self._body(_COMMENT)

    def _rest(self) -> None:
        self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()

"""Streams of server-sent events, kept alive while they have nothing to say.

The status is held back until the first event, so that a refusal has its own; but not for longer
than proxies leave a silent connection open. After that a failure is an event like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from atoll_client.errors import AtollError, NotReady
from atoll_client.gateway.core import error_formats
from atoll_client.gateway.core.web import EVENTS, Request

logger = logging.getLogger(__name__)

# Well below the minute after which many proxies end what is silent.
_SILENCE_S = 15.0
_COMMENT = b":\n\n"


class Events(StreamingResponse):
    """Each item is the data of an event. ``on_error`` makes the last one of a stream that fails.

    headers: besides those of every stream.
    """

    media_type = EVENTS

    def __init__(
        self,
        items: AsyncIterator[bytes],
        on_error: Callable[[Exception], bytes],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # A proxy that buffers would make a stream of one piece.
        own = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(items, headers={**own, **(headers or {})})
        self._items, self._on_error = items, on_error
        self._has_begun = False
        self._last = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream.

        Raises:
            Exception: what the first event raised: nothing has been sent then.
        """
        request = Request.of(scope)
        pulse = asyncio.create_task(self._keep_alive(send))
        try:
            async with contextlib.aclosing(self._items):  # type: ignore[type-var]
                async for item in self._items:
                    await self._write(send, b"data: " + item + b"\n\n")
        except (Exception, asyncio.CancelledError) as error:
            # A request that is refused before anything was sent has a status of its own.
            if request.is_left or not self._has_begun:
                raise
            await self._write(send, b"data: " + self._failure(request, error) + b"\n\n")
        finally:
            pulse.cancel()
        await self._begin(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _failure(self, request: Request, error: BaseException) -> bytes:
        """The data of the event that ends a stream early."""
        if not isinstance(error, Exception):
            return self._on_error(ending())
        if not isinstance(error, AtollError):
            logger.error("request %s: %s", request.request_id, request.path, exc_info=error)
        request.labels["error"] = error_formats.as_ours(error).error_type
        return self._on_error(error)

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
        """A comment whenever nothing was sent for a while."""
        while True:
            await asyncio.sleep(self._last + _SILENCE_S - time.monotonic())
            if time.monotonic() >= self._last + _SILENCE_S:
                await self._write(send, _COMMENT)


def ending() -> NotReady:
    """For requests that are still held when the process has to end."""
    return NotReady("the gateway is shutting down")

"""Cancels a request whose client sends too slowly, has disconnected, or does not read."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.requests import ClientDisconnect
from starlette.types import Message, Send

from atoll_client.errors import BodyTimeout
from atoll_client.gateway.core.settings import GatewaySettings
from atoll_client.gateway.core.web import Request

logger = logging.getLogger(__name__)

# A body that is not read as a whole gets its time again for each of so many bytes.
_RENEWING_BYTES = 65_536
# Requests that are done before are never checked.
_FIRST_LOOK_S = 0.03
_LOOK_S = 15.0


class Watch:
    """``with``: cancels the task inside if the client is too slow or has gone.

    Call ``begin`` when the body has been read: from then on, a disconnected client is noticed. Send
    through ``send``, so that a client that does not read is noticed.

    There is one timer for all limits: one for each, and tasks, would cost a good part of what a
    short embedding takes in all.

    Raises:
        BodyTimeout: the body was not complete in time. ClientDisconnect: the client has gone, or
            does not read.
    """

    def __init__(self, request: Request, settings: GatewaySettings, send: Send) -> None:
        self._request, self._settings, self._send = request, settings, send
        self._loop = asyncio.get_running_loop()
        self._is_reading, self._is_late = True, False
        self._num_bytes = 0
        self._sending_since: float | None = None
        self._is_answered = False
        self._receiver: asyncio.Task[None] | None = None

    def __enter__(self) -> Watch:
        self._task, self._started = asyncio.current_task(), time.monotonic()
        self._timer = self._loop.call_later(_FIRST_LOOK_S, self._look)
        return self

    def __exit__(self, kind: type[BaseException] | None, *reason: object) -> None:
        self._timer.cancel()
        if self._receiver is not None:
            self._receiver.cancel()
        if kind is None or not issubclass(kind, asyncio.CancelledError):
            return
        if self._is_late:
            limit = f"{self._settings.body_timeout_s:g} s"
            raise BodyTimeout(f"the body was not complete after {limit}") from None
        if self._request.is_left:
            raise ClientDisconnect from None

    def came(self, num_bytes: int) -> None:
        """A piece of a long body has come: its time is that from one part to the next."""
        self._num_bytes += num_bytes
        if self._num_bytes >= _RENEWING_BYTES:
            self._num_bytes, self._started = 0, time.monotonic()

    def begin(self) -> None:
        """The body has been read."""
        self._is_reading = False
        if time.monotonic() - self._started > _FIRST_LOOK_S:
            self._timer.cancel()
            self._timer = self._loop.call_later(_FIRST_LOOK_S, self._look)

    async def send(self, message: Message) -> None:
        """Sends a message; returns when the connection accepts more."""
        self._sending_since = time.monotonic()
        await self._send(message)
        self._sending_since = None
        if message["type"] == "http.response.body":
            self._is_answered = not message.get("more_body", False)

    def _look(self) -> None:
        now = time.monotonic()
        if self._is_reading:
            limit_s, since = self._settings.body_timeout_s, self._started
        else:
            limit_s, since = self._settings.write_timeout_s, self._sending_since or now
            if self._receiver is None:
                self._receiver = asyncio.create_task(self._receive())
        if now - since < limit_s:
            wait_s = min(limit_s - (now - since), _LOOK_S)
            self._timer = self._loop.call_later(wait_s, self._look)
        elif self._is_reading:
            self._is_late = True
            self._cancel()
        else:
            logger.warning("request %s: its client reads nothing", self._request.request_id)
            self._request.labels["error"] = "cancelled"
            self._leave()

    async def _receive(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            continue
        # The ASGI server says so of a complete answer, too, while its file is closed, for example.
        if not self._is_answered:
            self._leave()

    def _leave(self) -> None:
        self._request.is_left = True
        self._cancel()

    def _cancel(self) -> None:
        assert self._task is not None
        self._task.cancel()

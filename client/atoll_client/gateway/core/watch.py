"""Ends the work on a request whose client has left, or has stopped reading its answer."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from starlette.types import Message, Send

from atoll_client.gateway.core.web import Request

logger = logging.getLogger(__name__)

_WATCH_AFTER_S = 0.03
_LOOK_S = 15.0


class Watch:
    """``with``: cancels the task inside when the client closes the connection, or takes nothing.

    write_timeout_s: how long it may take nothing; it is sent through ``send``. What is
    answered before ``_WATCH_AFTER_S`` needs no watch: a task for it would be a good part of what a
    short embedding costs here.
    """

    def __init__(self, request: Request, send: Send, write_timeout_s: float) -> None:
        self._request, self._send, self._write_timeout_s = request, send, write_timeout_s
        self._sending_since: float | None = None
        self._watch: asyncio.Task[None] | None = None

    def __enter__(self) -> Watch:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._begin)
        return self

    def __exit__(self, *reason: Any) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()

    async def send(self, message: Message) -> None:
        """Sends on; returns when the connection takes more."""
        self._sending_since = time.monotonic()
        await self._send(message)
        self._sending_since = None

    def _begin(self) -> None:
        self._watch = asyncio.create_task(self._wait())
        self._look()

    async def _wait(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            continue
        self._leave()

    def _look(self) -> None:
        """Every few seconds; a timer for each of many events would cost more."""
        since = self._sending_since
        if since is None or time.monotonic() - since < self._write_timeout_s:
            interval_s = min(_LOOK_S, self._write_timeout_s)
            self._timer = asyncio.get_running_loop().call_later(interval_s, self._look)
            return
        logger.warning("request %s: its client reads nothing", self._request.request_id)
        self._request.labels["error"] = "cancelled"
        self._leave()

    def _leave(self) -> None:
        self._request.is_left = True
        assert self._task is not None
        self._task.cancel()

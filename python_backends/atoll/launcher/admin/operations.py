"""Operations as HTTP responses: one answer at the end, or a line of JSON for each event.

An operation runs on a thread of its own, to its end, also if the client disconnects meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from atoll.errors import AtollError, NotReady
from atoll.launcher.admin.loading import Report

logger = logging.getLogger(__name__)

LINES = "application/x-ndjson"
# Called with what it tells; returns the end of the answer.
Operation = Callable[[Report], Mapping[str, Any]]


class _Failure(Exception):
    """``status`` and ``body`` of the answer."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.status, self.body = failure(error)


def failure(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status and the body of an answer that says what went wrong."""
    if isinstance(error, NotReady):
        status = 503
    elif isinstance(error, AtollError):
        status = 422
    else:
        status = 500
    kind = error.error_type if isinstance(error, AtollError) else "generation"
    return status, {"error": str(error) or type(error).__name__, "error_type": kind}


async def answer(operation: Operation, is_stream: bool) -> Response:
    """Runs an operation and answers with what it returns, or why it failed."""
    events = _run(operation)
    if is_stream:
        return StreamingResponse(_lines(events), media_type=LINES)
    try:
        every = [event async for event in events]
    except _Failure as error:
        return JSONResponse(error.body, error.status)
    return JSONResponse(every[-1])


async def _lines(events: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[bytes]:
    try:
        async for event in events:
            yield json.dumps(event).encode() + b"\n"
    except _Failure as error:
        yield json.dumps(error.body).encode() + b"\n"


async def _run(operation: Operation) -> AsyncIterator[Mapping[str, Any]]:
    """Yields what it tells, and last what it returns.

    Raises:
        _Failure: whatever it raised.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Mapping[str, Any] | Exception | None] = asyncio.Queue()

    def put(value: Mapping[str, Any] | Exception | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(queue.put_nowait, value)

    def work() -> None:
        try:
            put(operation(put))
        except Exception as error:
            if not isinstance(error, AtollError):
                logger.exception("an administrator's request failed")
            put(error)
        put(None)

    threading.Thread(target=work, name="atoll-admin-operation", daemon=True).start()
    while (value := await queue.get()) is not None:
        if isinstance(value, Exception):
            raise _Failure(value)
        yield value

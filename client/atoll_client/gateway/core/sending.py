"""How answers go to a client: whole ones, and streams of events, whose client may be slow."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import quote

from atoll_client.errors import AtollError, NotReady
from atoll_client.gateway.core import error_formats
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.request_body import ClientLeft
from atoll_client.gateway.core.sse import EventStream
from atoll_client.gateway.core.web import Events, Reply, Request, Send

logger = logging.getLogger(__name__)

# What a socket takes at once.
_LARGE_BYTES = 65_536


async def send_reply(request: Request, context: Context, answer: Reply, send: Send) -> int:
    """A whole answer; its status.

    Raises:
        ClientLeft: the client does not take it in time.
    """
    headers = {"content-length": str(len(answer.body)), "content-type": answer.content_type}
    await send(_start(request, answer.status, {**headers, **answer.headers}))
    body = b"" if request.method == "HEAD" else answer.body
    if len(body) <= _LARGE_BYTES:
        await send({"type": "http.response.body", "body": body})
        return answer.status
    await send({"type": "http.response.body", "body": body, "more_body": True})
    timeout_s = context.settings.write_timeout_s
    try:
        # Returns when the client has taken most of it: until then, the request counts.
        await asyncio.wait_for(send({"type": "http.response.body", "body": b""}), timeout_s)
    except asyncio.TimeoutError:
        logger.warning("request %s: its client reads nothing", request.request_id)
        raise ClientLeft from None
    return answer.status


async def send_events(request: Request, context: Context, answer: Events, send: Send) -> int:
    """A stream of events; its status.

    Raises:
        Exception: what the first event raised: nothing has been sent then.
    """
    caller = asyncio.current_task()
    assert caller is not None

    def leave() -> None:
        logger.warning("request %s: its client reads nothing", request.request_id)
        request.labels["error"] = "cancelled"
        request.is_left = True
        caller.cancel()

    stream = EventStream(
        answer, send, functools.partial(_start, request), on_stuck=leave,
        write_timeout_s=context.settings.write_timeout_s,
    )  # fmt: skip
    async with contextlib.aclosing(answer.items), stream:  # type: ignore[type-var]
        try:
            async for item in answer.items:
                await stream.write(item)
        except Exception as error:
            # A request that is refused before anything was sent has a status of its own.
            if not stream.has_begun:
                raise
            if not isinstance(error, AtollError):
                logger.exception("request %s: %s", request.request_id, request.path)
            request.labels["error"] = error_formats.as_ours(error).error_type
            await stream.write(answer.on_error(error))
        except asyncio.CancelledError:
            if request.is_left or not stream.has_begun:
                raise
            await stream.write(answer.on_error(ending()))
        await stream.end()
    return 200


def ending() -> NotReady:
    """Who still waits when the process has to end is told so."""
    return NotReady("the gateway is shutting down")


def _start(request: Request, status: int, headers: Mapping[str, str]) -> MutableMapping[str, Any]:
    pairs = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
    pairs.append((b"x-request-id", request.request_id.encode("latin-1", "replace")))
    if request.unknown_fields:
        names = ", ".join(quote(name, safe="[]._-") for name in request.unknown_fields)
        pairs.append((b"x-unknown-fields", names.encode()))
    return {"type": "http.response.start", "status": status, "headers": pairs}

"""Bodies of requests as they come in: bounded in bytes, in time, and together with all others."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping

from atoll_client.errors import BodyTimeout, TooLarge
from atoll_client.gateway.core.web import Receive


class ClientLeft(Exception):
    """Nobody is there to read an answer."""


async def read_body(
    receive: Receive,
    headers: Mapping[str, str],
    limit: int,
    timeout_s: float,
    held: Callable[[int], None],
) -> bytes:
    """A whole body of at most ``limit`` bytes.

    Raises:
        TooLarge: it is larger. BodyTimeout: it is not complete in time. ClientLeft: nor ever.
        Overloaded: all bodies together are too many bytes.
    """
    announced = headers.get("content-length", "")
    if re.fullmatch("[0-9]{1,20}", announced) and int(announced) > limit:
        raise TooLarge(f"the body has {announced} bytes; the limit is {limit}")
    # Not asyncio.wait_for, whose task would be a good part of what a short embedding costs here.
    task, is_late = asyncio.current_task(), False
    assert task is not None

    def expire() -> None:
        nonlocal is_late
        is_late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(timeout_s, expire)
    try:
        return await _read(receive, limit, held)
    except asyncio.CancelledError:
        if not is_late:
            raise
        raise BodyTimeout(f"the body was not complete after {timeout_s:g} s") from None
    finally:
        timer.cancel()


async def _read(receive: Receive, limit: int, held: Callable[[int], None]) -> bytes:
    # One buffer: a list of a million pieces would take a hundred times their bytes.
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) + len(piece) > limit:
            raise TooLarge(f"the body has more than {limit} bytes")
        held(len(piece))
        if not body and not more:
            return bytes(piece)
        body += piece
    return bytes(body)

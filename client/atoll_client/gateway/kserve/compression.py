"""gzip and deflate, of requests and responses. Decompression stops at the limit."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Iterator
from typing import Any, TypeVar

from atoll_client.errors import MalformedRequest, TooLarge, ValidationError
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.web import Reply, Request

# zlib's wbits: a gzip header, or a zlib header, which HTTP calls deflate.
_FORMATS = {"gzip": 31, "deflate": 15}
# Shorter responses would gain nothing.
_SMALLEST = 1024
# Longer bodies are compressed on a thread, so that other requests are not delayed.
_LONG = 100_000
R = TypeVar("R", bound=Reply[Any])


async def decompressed(request: Request, context: Context) -> bytes:
    """A request's body, decompressed.

    Raises:
        ValidationError: the format is unknown. MalformedRequest: the body is not in that format.
        TooLarge: the decompressed body exceeds the limit.
    """
    name = request.headers.get("content-encoding", "identity").strip().lower()
    if name == "identity":
        return request.raw
    if name not in _FORMATS:
        raise ValidationError(f"Content-Encoding is '{name[:50]}'; known: gzip, deflate")
    limit = context.settings.tensor_payload_limit
    if len(request.raw) < _LONG:
        return _unpack(request.raw, name, limit)
    return await asyncio.to_thread(_unpack, request.raw, name, limit)


def _unpack(body: bytes, name: str, limit: int) -> bytes:
    unpacker = zlib.decompressobj(_FORMATS[name])
    try:
        found = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedRequest(f"the body is not in {name}: {error}") from None
    if len(found) > limit:
        raise TooLarge(f"the body has more than {limit} bytes when it is unpacked")
    if not unpacker.eof or unpacker.unused_data:
        raise MalformedRequest(f"the body is not in {name}: it is cut off, or has a second part")
    return found


async def compressed(request: Request, answer: R) -> R:
    """The response in the first format that the client accepts, if it is long enough for that."""
    accepted = request.headers.get("accept-encoding", "")
    name = next((name for name in _accepted(accepted) if name in _FORMATS), None)
    if name is None or len(answer.body) < _SMALLEST:
        return answer
    if len(answer.body) < _LONG:
        answer.body = _pack(answer.body, name)
    else:
        answer.body = await asyncio.to_thread(_pack, answer.body, name)
    answer.headers.update(
        {
            "content-encoding": name,
            "vary": "accept-encoding",
            "content-length": f"{len(answer.body)}",
        }
    )
    return answer


def _accepted(header: str) -> Iterator[str]:
    """Names of formats, without those that the client rejects (q=0)."""
    for part in header.lower().split(","):
        name, _, quality = part.partition(";")
        if not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", quality):
            yield name.strip()


def _pack(body: bytes | memoryview, name: str) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, _FORMATS[name])
    return packer.compress(body) + packer.flush()

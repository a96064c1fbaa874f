"""Bodies in gzip or deflate, both ways. What unpacks to more than the limit is not unpacked."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Iterator

from atoll_client.errors import MalformedRequest, TooLarge, ValidationError
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.web import Reply, Request

# wbits of zlib: gzip's own header, or zlib's, which HTTP calls deflate.
_FORMATS = {"gzip": 31, "deflate": 15}
# Below, a header costs more than is saved.
_SMALLEST = 1024
# Above, others would wait for it.
_LONG = 100_000


async def decompressed(request: Request, context: Context) -> bytes:
    """A request's body as it was before its client packed it.

    Raises:
        ValidationError: a format that is not known. MalformedRequest: it is not in that format.
        TooLarge: it unpacks to more than the route takes.
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


async def compressed(request: Request, answer: Reply) -> Reply:
    """The answer in the first format that the client takes, if it is long enough for that."""
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
    """Names of formats, without those that the client excludes."""
    for part in header.lower().split(","):
        name, _, quality = part.partition(";")
        if not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", quality):
            yield name.strip()


def _pack(body: bytes | memoryview, name: str) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, _FORMATS[name])
    return packer.compress(body) + packer.flush()

"""Bytes on a connection of their own that are no HTTP, or HTTP that can be read in two ways."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from fuzzing import target
from fuzzing.shot import RawShot
from fuzzing.values import bits_flipped

_BODY = json.dumps({"model": target.EMBEDDER, "input": "a"}).encode()
_HEAD = (
    "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + target.KEY + "\r\n"
).encode()
GOOD = _HEAD + b"content-length: %d\r\n\r\n" % len(_BODY) + _BODY
_CHUNKED = _HEAD + b"transfer-encoding: chunked\r\n\r\n"
_SMUGGLED = b"GET /admin/models HTTP/1.1\r\nhost: x\r\n\r\n"
_LINES: tuple[bytes, ...] = (
    b"content-length: 4\r\ncontent-length: 5", b"content-length: +4", b"content-length: 0x4",
    b"content-length: 4, 4", b"content-length:", b"content-length: " + b"9" * 30,
    b"transfer-encoding: chunked\r\ncontent-length: 4", b"transfer-encoding: \x0bchunked",
    b"transfer-encoding: chunked, identity", b"transfer-encoding: xchunked",
    b"transfer-encoding: identity", b"Transfer-Encoding : chunked", b" folded: x", b"no colon",
    b": no name", b"x: a\0b", b"x: a\rb", b"x: a\nb", b"host: y", b"expect: nothing",
    b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"sec-websocket-version: 13", b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\n"
    b"http2-settings: AAMAAABkAARAAAAAAAIAAAAA", b"connection: close, keep-alive", b"te: trailers",
    b"x: " + b"a" * 300_000, b"\r\n".join(b"x-%d: a" % i for i in range(500)),
)  # fmt: skip
_CHUNKS: tuple[bytes, ...] = (
    b"5\r\nhello\r\n0\r\n\r\n", b"5\nhello\n0\n\n", b"5 \r\nhello\r\n0\r\n\r\n", b"-1\r\n\r\n",
    b"FFFFFFFFFFFFFFFF\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n",
    b"5\r\nhelloX\r\n0\r\n\r\n", b"\r\n\r\n", b"g\r\n", b"0\r\n" + b"x: y\r\n" * 400 + b"\r\n",
    b"5\r\nhello\r\n", b"1\r\n{\r\n" * 3000 + b"0\r\n\r\n",
    b"%x\r\n" % len(_BODY) + _BODY + b"\r\n0\r\n\r\n" + _SMUGGLED,
)  # fmt: skip
_FIRST: tuple[bytes, ...] = (
    b"", b"\r\n", b"\n" * 50, b"\0" * 40, b"GET", b"GET /", b"GET / HTTP/1.1",
    b"GET / HTTP/9.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 27, b"GET / HTTP/0.9\r\n\r\n", b"GET /\r\n\r\n",
    b"get / http/1.1\r\n\r\n", b"X" * 70_000, b"GET " + b"/a" * 40_000 + b" HTTP/1.1\r\n\r\n",
    b"GET http://x/ HTTP/1.1\r\nhost: y\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", b"TRACE / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /%zz HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" * 9, b"HELP\r\n",
    b"*1\r\n",
    b"GET /v1/models HTTP/1.0\r\n\r\n", b"GET  /  HTTP/1.1\r\n\r\n", b"GET\t/\tHTTP/1.1\r\n\r\n",
)  # fmt: skip


@st.composite
def raw(draw: st.DrawFn, ports: tuple[str, ...]) -> RawShot:
    """What a connection sends."""
    port = draw(st.sampled_from(ports))
    match draw(st.integers(0, 5)):
        case 0:
            found = draw(st.sampled_from(_FIRST))
        case 1:
            found = _HEAD + draw(st.sampled_from(_LINES)) + b"\r\n\r\n" + _BODY
        case 2:
            found = _CHUNKED + draw(st.sampled_from(_CHUNKS))
        case 3:
            found = GOOD * draw(st.integers(2, 20)) + draw(st.sampled_from(_FIRST))
        case 4:
            found = draw(bits_flipped(GOOD))
        case _:
            found = draw(st.binary(max_size=200))
    cuts = sorted(draw(st.lists(st.integers(0, len(found)), max_size=3)))
    pieces = [found[a:b] for a, b in zip([0, *cuts], [*cuts, len(found)], strict=True)]
    # Half of a request, then silence: the client leaves by itself.
    return RawShot(port, tuple(pieces), closes=draw(st.integers(0, 9)) > 0)

"""HTTP that no client means well with: bounded, refused, and others are served meanwhile."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable

import httpx
import psutil
import pytest
from gateways import Others

INFER = "/v2/models/echo/infer"
# Clients that read slowly: what their model still sends keeps the server busy after they left.
_SLOW = 15


def _send(others: Others, pieces: list[bytes], timeout_s: float = 60.0) -> bytes:
    """The answer to bytes on a connection of their own, up to its end or to a whole reply."""
    found = b""
    address = ("127.0.0.1", others.gateway.options.port)
    with socket.create_connection(address, timeout=timeout_s) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except OSError:
            pass
        try:
            while part := connection.recv(65_536):
                found += part
        except OSError:
            pass
    return found


def _post(body: bytes, *headers: str, path: str = INFER) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", "connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _sized(body: bytes, *headers: str) -> bytes:
    return _post(body, f"content-length: {len(body)}", *headers)


CHUNKED = _post(b"", "transfer-encoding: chunked")
ABUSE: dict[str, tuple[Callable[[], list[bytes]], tuple[int, ...]]] = {
    "150,000 nested arrays": (lambda: [_sized(b"[" * 150_000)], (400,)),
    "nested arrays as data": (
        lambda: [_sized(b'{"inputs":[{"name":"IN_INT32","data":' + b"[" * 150_000)], (400,),
    ),
    "700,000 chunks": (lambda: [CHUNKED, *[b"1\r\n[\r\n" * 10_000] * 70], (400,)),
    "a shape of 2**40": (
        lambda: [_sized(json.dumps({"inputs": [
            {"name": "IN_FP32", "datatype": "FP32", "shape": [1, 2**40], "data": []}
        ]}).encode())], (400,),
    ),
    "5 MB of JSON": (lambda: [_sized(b'{"inputs": [' + b"1," * 2_500_000)], (413,)),
    "a large header": (lambda: [_sized(b"", "x-a: " + "a" * 5_000_000)], (431,)),
    "a header without an end": (lambda: [b"GET / HTTP/1.1\r\nx: ", *[b"a" * 65_536] * 160], (431,)),
    "many headers": (lambda: [_sized(b"", *(f"x-{i}: a" for i in range(5000)))], (431,)),
    "a large address": (lambda: [b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"], (414, 431)),
    "a chunk's extension": (lambda: [CHUNKED, b"1;" + b"a" * 3_000_000 + b"\r\n[\r\n"], (400,)),
    "trailers": (
        lambda: [CHUNKED, b"1\r\n{\r\n0\r\n", *[b"x-a: " + b"a" * 60_000 + b"\r\n"] * 60],
        (400, 431),
    ),
    "a length that is no number": (lambda: [_post(b"{}", "content-length: 2x")], (400,)),
    "a negative length": (lambda: [_post(b"{}", "content-length: -2")], (400,)),
    "two lengths": (
        lambda: [_post(b"{}", "content-length: 2", "content-length: 3")], (400,),
    ),
    "a length and chunks": (
        lambda: [_post(b"0\r\n\r\n", "content-length: 5", "transfer-encoding: chunked")], (400,),
    ),
    "a length beyond all": (lambda: [_post(b"{}", "content-length: " + "9" * 19)], (400, 413)),
    "a length beyond 64 bits": (lambda: [_post(b"{}", "content-length: " + "9" * 40)], (400,)),
    "a body that is too large": (
        lambda: [_post(b"", "content-length: 70000000"), b"a" * 100_000], (413,),
    ),
    "a control character": (lambda: [_sized(b"{}", "traceparent: a\x01b")], (400,)),
    "a zero": (lambda: [_sized(b"{}", "authorization: a\0b")], (400,)),
    "no HTTP": (lambda: [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" * 10], (400,)),
    "another protocol": (lambda: [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], (400,)),
}  # fmt: skip


@pytest.mark.parametrize("name", ABUSE)
def test_is_refused(others: Others, name: str) -> None:
    make, statuses = ABUSE[name]
    answer = _send(others, make())
    status = answer.split(b" ", 2)[1:2]
    assert status and int(status[0]) in statuses, answer[:300]
    assert httpx.get(f"{others.url}/v2/models/echo/ready", timeout=60).status_code == 200
    assert others.server.is_alive and others.gateway.num_restarts == 0


def test_memory_is_bounded(others: Others) -> None:
    """A million pieces of a body were kept as a million objects."""
    process = psutil.Process(others.gateway.pid)
    before = process.memory_info().rss
    for name in ("700,000 chunks", "a header without an end", "150,000 nested arrays"):
        for _ in range(3):
            _send(others, ABUSE[name][0]())
    assert process.memory_info().rss - before < 100_000_000


def test_a_connection_goes_on_after_an_error(others: Others) -> None:
    good = {"inputs": [{"name": "IN_INT8", "datatype": "INT8", "shape": [1], "data": [5]}]}
    address = ("127.0.0.1", others.gateway.options.port)
    with httpx.Client(base_url=others.url, timeout=60) as client:
        ports = set()
        for method, path, body, status in (
            ("POST", INFER, good, 200), ("POST", INFER, {"inputs": 1}, 400),
            ("GET", INFER, None, 405), ("GET", "/nothing", None, 404),
            ("HEAD", "/v2", None, 200), ("POST", INFER, good, 200),
        ):  # fmt: skip
            answer = client.request(method, path, json=body)
            assert answer.status_code == status, path
            stream = answer.extensions["network_stream"]
            ports.add(stream.get_extra_info("client_addr")[1])
        assert len(ports) == 1
    # Two requests at once on a connection are answered one after the other.
    raw = json.dumps(good).encode()
    head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n".encode()
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall((head + raw) * 2)
        found = b""
        while found.count(b"OUT_INT8") < 2:
            found += connection.recv(65_536)
    assert found.count(b"HTTP/1.1 200 OK") == 2


def test_nothing_is_written_into_an_answer_that_has_begun(others: Others) -> None:
    """Bytes behind the request were refused in the middle of its answer."""
    body = json.dumps({"IN": list(range(100)) * 20}).encode()
    # The connection is kept: behind the last request of one that is not, bytes are ignored.
    length = f"host: x\r\ncontent-length: {len(body)}\r\n\r\n"
    head = f"POST /v2/models/repeat/generate_stream HTTP/1.1\r\n{length}"
    request = head.encode() + body
    with socket.create_connection(("127.0.0.1", others.gateway.options.port), timeout=60) as one:
        one.sendall(request)
        found = one.recv(15)
        one.sendall(b"\0 no HTTP\r\n\r\n")
        while part := one.recv(65_536):
            found += part
    assert found.startswith(b"HTTP/1.1 200 OK") and found.count(b"HTTP/1.1") == 1
    assert httpx.get(f"{others.url}/v2/health/ready", timeout=60).status_code == 200


def test_slow_readers_of_streams_hold_little_and_others_are_served(others: Others) -> None:
    """Each holds what its socket takes: the server is read no faster than the client reads."""
    body = json.dumps({"IN": list(range(1000)) * 20}).encode()
    request = _post(body, f"content-length: {len(body)}", path="/v2/models/repeat/generate_stream")
    process = psutil.Process(others.gateway.pid)
    address = ("127.0.0.1", others.gateway.options.port)
    before, slow = process.memory_info().rss, []
    try:
        for _ in range(_SLOW):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(60)
            connection.connect(address)
            connection.sendall(request)
            slow.append(connection)
        for connection in slow:
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
        for _ in range(5):
            answer = httpx.post(
                f"{others.url}/v2/models/repeat/generate", json={"IN": [1]}, timeout=60
            )
            assert answer.json()["OUT"] == 1
            time.sleep(0.2)
        # 20,000 events would be 1.2 MB for each client, and several times that as objects.
        assert process.memory_info().rss - before < _SLOW * 1_200_000
    finally:
        for connection in slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
    assert (
        httpx.get(f"{others.url}/v2/health/ready", timeout=60).status_code == 200
        and others.server.is_alive
    )

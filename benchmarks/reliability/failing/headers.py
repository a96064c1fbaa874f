"""F2: headers and gRPC metadata that are wrong or large."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
from gateways import EMBEDDER
from long_requests import wait_until
from serving import Serving
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

from failing.case import CHAT, EMBED, Case, status_of, told

_HEADERS = (
    "traceparent", "tracestate", "baggage", "x-request-id", "x-session-id", "authorization",
    "x-api-key", "cookie", "user-agent", "accept", "x-priority", "x-forwarded-for", "x-other",
)  # fmt: skip
_VALUES: dict[str, bytes] = {
    "bytes above 127": b"\xff\xfe\xe4" * 20,
    "UTF-8": "каñ東".encode(),
    "a tab": b"a\tb",
    "20 KB": b"0" * 20_000,
    "nothing": b"",
}
# These end an HTTP message, or are none of a header: the server's parser refuses them.
_CONTROL: dict[str, bytes] = {"the character 1": b"a\x01b", "a zero": b"a\0b"}
_STREAM = (CHAT[0], {**CHAT[1], "stream": True})
_REQUESTS = {"embedding": EMBED, "chat": CHAT, "streamed chat": _STREAM}


def headers(server: Serving) -> Iterator[Case]:
    """Each header with each value, on each route; then Triton's own ports."""
    for name, value in _VALUES.items():
        # What says how to answer, and cannot be understood, is refused by its name.
        yield _gateway(server, name, value, {200, 400, 422} if value else {200})
    for name, value in _CONTROL.items():
        yield _gateway(server, name, value, {400})
    yield _together(server)
    yield _triton_http(server)
    yield _metadata(server, "grpc-port", "Triton's gRPC")
    yield _metadata(server, "gateway-grpc-port", "the gateway's gRPC")


def _gateway(server: Serving, what: str, value: bytes, allowed: set[int]) -> Case:
    began, ends, longest = time.monotonic(), Counter[str](), 0.0
    refused, statuses = set[str](), set[int]()
    with httpx.Client(base_url=server.url(), timeout=60) as client:
        for header in _HEADERS:
            for path, body in _REQUESTS.values():
                asked = time.monotonic()
                if what in _CONTROL:
                    status = _raw(server, "port", path, body, header, value)
                else:
                    status = _ask(client, path, body, header, value)
                longest = max(longest, time.monotonic() - asked)
                ends[str(status)] += 1
                statuses.add(status)
                if status != 200:
                    refused.add(header)
    names = f" ({', '.join(sorted(refused))})" if 0 < len(refused) < len(_HEADERS) else ""
    return Case(
        "F2", f"{len(_HEADERS)} headers with {what}, each with an embedding and two chats",
        f"{told(ends)}{names}; the longest took {longest:.1f} s",
        time.monotonic() - began, statuses <= allowed,
    )  # fmt: skip


def _raw(server: Serving, port: str, path: str, body: Any, header: str, value: bytes) -> int:
    """The status; httpx does not send these."""
    text = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(text)}".encode(),
        header.encode() + b": " + value,
    ]
    found = status_of(server.ports[port], [b"\r\n".join(lines) + b"\r\n\r\n" + text])
    return int(found) if found.isdecimal() else 0


def _ask(client: httpx.Client, path: str, body: Any, header: str, value: bytes) -> int:
    raw = [(b"content-type", b"application/json"), (header.encode(), value)]
    try:
        with client.stream("POST", path, content=json.dumps(body), headers=raw) as answer:
            text = answer.read()
    except httpx.TransportError:
        return 0
    if answer.status_code == 200 and b'"error"' in text:
        return 500
    return answer.status_code


def _together(server: Serving) -> Case:
    """Headers have a limit together, too."""
    began, statuses = time.monotonic(), Counter[str]()
    for size in (60_000, 200_000):
        with httpx.Client(base_url=server.url(), timeout=60) as client:
            statuses[str(_ask(client, *EMBED, "cookie", b"a" * size))] += 1
    return Case(
        "F2", "a header of 60 KB, one of 200 KB", told(statuses), time.monotonic() - began,
        set(statuses) <= {"200", "431"},
    )  # fmt: skip


def _triton_http(server: Serving) -> Case:
    """Forwarded to the models as parameters."""
    began, ends = time.monotonic(), Counter[str]()
    pid = server.tritonserver.pid
    tensor = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}
    path = f"/v2/models/{EMBEDDER}/infer"
    with httpx.Client(base_url=server.url("http-port"), timeout=20) as client:
        for header in ("traceparent", "tracestate", "x-request-id"):
            for value in _VALUES.values():
                try:
                    status = _ask(client, path, {"inputs": [tensor]}, header, value)
                except httpx.TimeoutException:
                    status = -1
                ends[{-1: "no answer", 0: "connection closed"}.get(status, str(status))] += 1
            for value in _CONTROL.values():
                status = _raw(server, "http-port", path, {"inputs": [tensor]}, header, value)
                ends[str(status) if status else "connection closed"] += 1
    same = server.has_server() and server.tritonserver.pid == pid
    return Case(
        "F2", "the same three headers that are forwarded, on Triton's own HTTP port",
        f"{told(ends)}; the server {'goes on' if same else 'was ended'}",
        time.monotonic() - began, same and "no answer" not in ends and "500" not in ends,
    )  # fmt: skip


def _metadata(server: Serving, port: str, what: str) -> Case:
    began, ends = time.monotonic(), Counter[str]()
    request = pb.ModelInferRequest(model_name=EMBEDDER)
    tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    tensor.contents.bytes_contents.append(b"a")
    values = {
        "traceparent": ["0" * 20_000, "00-xyz", ""], "tracestate": ["a" * 20_000, "=,="],
        "x-request-id": ["a" * 20_000, "~" * 300], "baggage": ["a" * 20_000],
        "authorization": ["a" * 5_000], "traceparent-bin": [b"\xff\0\x01" * 100],
        "x-other-bin": [b"\xff" * 4_000],
    }  # fmt: skip
    options = [("grpc.max_metadata_size", 64_000)]
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[port]}", options) as channel:
        stub = rpc.GRPCInferenceServiceStub(channel)
        for name, given in values.items():
            for value in given:
                try:
                    stub.ModelInfer(request, metadata=[(name, value)], timeout=20)
                    ends["OK"] += 1
                except grpc.RpcError as error:
                    ends[error.code().name] += 1
        wait_until(lambda: bool(stub.ModelInfer(request, timeout=20).outputs), lambda: "no answer")
    return Case(
        "F2", f"{what}: metadata that is wrong, binary, or of 20 KB", told(ends),
        time.monotonic() - began, set(ends) <= {"OK", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"},
    )  # fmt: skip

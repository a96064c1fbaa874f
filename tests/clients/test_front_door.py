"""What a gateway does before a route is asked: keys, limits, methods, headers that are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fake_triton import FakeTriton
from scripted import CHAT, EMBED, GENERATE, gateway, post, run
from starlette.datastructures import Headers

from atoll_client.gateway.core.headers import Keys, trace_context

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
IDS = TRACE[3:]


def test_probes_and_metrics_are_answered_by_a_full_gateway() -> None:
    """They were counted and refused with 429: an orchestrator then killed a pod that was busy."""

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        release = asyncio.Event()

        async def held(message: Any) -> AsyncIterator[Any]:
            await release.wait()
            raise AssertionError("the client has left")
            yield

        triton.generate = held
        waiting = asyncio.create_task(post(http, GENERATE))
        while not triton.calls:
            await asyncio.sleep(0.01)
        for path, request in (("/embed", EMBED), CHAT[:1] * 2, ("/v2", None)):
            method = "POST" if request else "GET"
            answer = await http.request(method, path, json={"inputs": "a"})
            assert (answer.status_code, "retry-after" in answer.headers) == (429, True), path
            assert "max_concurrent_requests is 1" in answer.text
        for path in (
            "/health", "/v1/health/live", "/v1/health/ready", "/ping", "/metrics", "/info", "/",
            "/openapi.json", "/v2/health/live", "/v2/health/ready",
        ):  # fmt: skip
            assert (await http.get(path)).status_code == 200, path
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        release.set()

    run(scenario, max_concurrent_requests=1)


def test_who_has_no_key_learns_nothing_of_addresses() -> None:
    """The route was looked up first: 404 and 405 told what exists."""

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for method, path in (("GET", "/nothing"), ("GET", "/embed"), ("OPTIONS", "/embed")):
            assert (await http.request(method, path)).status_code == 401, path
        # Public routes are known to all.
        assert (await http.request("TRACE", "/health")).status_code == 405
        assert (await http.request("OPTIONS", "/health")).status_code == 200
        for scheme in ("Bearer", "bearer", "BEARER  "):
            headers = {"authorization": f"{scheme} k"}
            statuses = [
                (await http.request(method, path, headers=headers)).status_code
                for method, path in (("GET", "/nothing"), ("GET", "/embed"), ("GET", "/v1/models"))
            ]
            assert statuses == [404, 405, 200]

    run(scenario, api_key="k")


def test_a_key_beyond_ascii() -> None:
    keys = Keys("schlüssel, 鍵")
    for raw in ("Bearer schlüssel".encode(), "bearer schlüssel".encode("latin-1"), "鍵".encode()):
        keys.check(Headers(raw=[(b"authorization", raw)]))
    for wrong in ("schlussel", "Bearer ", "Basic 鍵", "Bearer schl\x00ssel", "Bearer k,Bearer k"):
        with pytest.raises(Exception, match="missing or wrong"):
            keys.check(Headers(raw=[(b"authorization", wrong.encode())]))


def test_methods() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for path, allow in (
            ("/embed", "POST, OPTIONS"), ("/health", "GET, HEAD, OPTIONS"),
            ("/vectors/embed", "POST, OPTIONS"), ("/", "POST, GET, HEAD, OPTIONS"),
        ):  # fmt: skip
            refused = await http.delete(path)
            assert (refused.status_code, refused.headers["allow"]) == (405, allow)
            asked = await http.options(path)
            assert (asked.status_code, asked.headers["allow"]) == (200, allow)
        head, whole = await http.head("/v1/models"), await http.get("/v1/models")
        assert head.content == b"" and whole.content
        assert head.headers["content-length"] == str(len(whole.content))
        assert (await http.options("/nothing")).status_code == 404

    run(scenario)


@pytest.mark.parametrize(
    ("parent", "state", "found"),
    [
        (TRACE, "a=1, b@c=2,,d=x y", (TRACE, "a=1,b@c=2,d=x y")),
        (f" {TRACE}\t", "", (TRACE, None)),
        (f"01-{IDS}-and-more", "", (TRACE, None)),
        (f"fe-{IDS}", "a=1", (TRACE, "a=1")),
        (TRACE, ",".join(f"k{i}=v" for i in range(33)), (TRACE, None)),
        (TRACE, "a=1,a=2", (TRACE, None)),
        (TRACE, "A=1", (TRACE, None)),
        (TRACE, "a=ü", (TRACE, None)),
        (TRACE, "a=\x01", (TRACE, None)),
        (TRACE, "a", (TRACE, None)),
        (TRACE, ",".join(f"k{i}={'v' * 255}" for i in range(20)), (TRACE, None)),
        (f"ff-{IDS}", "a=1", None),
        (f"00-{IDS}-x", "a=1", None),
        (f"01-{IDS}x", "", None),
        (TRACE.upper(), "", None),
        (TRACE.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), "", None),
        (TRACE.replace("b7ad6b7169203331", "0" * 16), "", None),
        (f"{TRACE},{TRACE}", "", None),
        (f"{TRACE}\n", "", None),
        (TRACE[:-1], "", None),
        (TRACE.replace("a", "ä", 1), "", None),
        (TRACE + "\x01", "", None),
        ("\xff" * 55, "a=1", None),
        ("0" * 20_000, "", None),
        ("", "a=1", None),
    ],
)
def test_traces_that_are_w3c_s(parent: str, state: str, found: Any) -> None:
    """Bytes above 127 made the call to the server fail, or never end."""
    got = trace_context(Headers({"traceparent": parent, "tracestate": state}))
    assert (got.get("traceparent"), got.get("tracestate")) == (found or (None, None))
    assert trace_context(Headers({})) == {}


def test_headers_that_are_wrong_are_left_out_and_the_request_is_answered() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        bad: list[tuple[bytes, bytes]] = [
            (b"traceparent", b"\xff\xfe" + TRACE.encode()), (b"tracestate", b"\x01=\xe4"),
            (b"x-request-id", b"caf\xe9"), (b"x-other", b"\xff" * 20_000),
        ]  # fmt: skip
        for path, body in (EMBED, GENERATE, CHAT):
            answer = await http.post(path, json=body, headers=bad)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-request-id"].isalnum()
        assert not any("traceparent" in metadata for metadata in triton.metadata)
        twice = [("traceparent", TRACE), ("traceparent", TRACE.replace("b7", "c7"))]
        assert (await http.post(EMBED[0], json=EMBED[1], headers=twice)).status_code == 200
        assert "traceparent" not in triton.metadata[-1]
        states = [("traceparent", TRACE), ("tracestate", "a=1"), ("tracestate", "b=2")]
        await http.post(EMBED[0], json=EMBED[1], headers=states)
        assert triton.metadata[-1]["tracestate"] == "a=1,b=2"

    run(scenario)


def test_bodies_of_all_requests_together_have_a_limit() -> None:
    async def scenario() -> None:
        async with gateway("127.0.0.1:1", max_held_bytes=1000) as http:
            admission = http._transport.app.context.admission  # type: ignore[attr-defined]
            goes_on = asyncio.Event()

            async def slow() -> AsyncIterator[bytes]:
                yield b'{"inputs": "' + b"a" * 700
                await goes_on.wait()
                yield b'"}'

            first = asyncio.create_task(http.post("/embed", content=slow()))
            while admission.num_bytes < 700:
                await asyncio.sleep(0.01)
            second = await http.post("/embed", json={"inputs": "a" * 400})
            assert second.status_code == 429 and "max_held_bytes is 1000" in second.text
            goes_on.set()
            assert (await first).status_code == 503
            assert admission.num_bytes == admission.num_open == 0

    asyncio.run(scenario())


def test_a_body_that_does_not_come() -> None:
    """A client that sends a part and waits held one of the gateway's places for ever."""

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        async def never() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.sleep(60)

        answer = await http.post("/embed", content=never())
        assert (answer.status_code, answer.headers["connection"]) == (408, "close")
        assert "not complete after 0.2 s" in answer.json()["error"]

    run(scenario, body_timeout_s=0.2)

"""What a gateway does around its servers: errors, overload, several of them, keys, limits, traces.

The servers here are scripted: a real one is rarely in trouble on request.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import fake_triton
import grpc
import httpx
import pytest
from fake_triton import FakeTriton, Refusal, chunk
from scripted import CHAT, CODE, EMBED, GENERATE, post, refuse, refuse_stream, run

from atoll_client.gateway.core import sse
from atoll_client.gateway.core.settings import GatewaySettings

REFUSALS: list[tuple[grpc.StatusCode, str, int, str, str, str]] = [
    (CODE.INVALID_ARGUMENT, "bad", 422, "Validation", "validation", "invalid_request_error"),
    (CODE.UNAVAILABLE, "Exceeds maximum queue size", 429, "Overloaded", "overloaded",
     "rate_limit_error"),
    (CODE.UNAVAILABLE, "512 requests are held", 429, "Overloaded", "overloaded",
     "rate_limit_error"),
    (CODE.UNAVAILABLE, "the model is shutting down", 503, "Unhealthy", "unhealthy",
     "server_error"),
    (CODE.INTERNAL, "Stub process 'x' is not healthy.", 503, "Unhealthy", "unhealthy",
     "server_error"),
    (CODE.INTERNAL, "the step failed", 424, "Backend", "generation", "server_error"),
    (CODE.UNIMPLEMENTED, "cannot", 424, "Backend", "generation", "invalid_request_error"),
    (CODE.NOT_FOUND, "Request for unknown model", 404, "Validation", "not_found",
     "invalid_request_error"),
    (CODE.DEADLINE_EXCEEDED, "Deadline Exceeded", 504, "Backend", "timeout", "server_error"),
    (CODE.UNKNOWN, "?", 500, "Backend", "generation", "server_error"),
]  # fmt: skip

# Where OpenAI's own servers answer otherwise.
OPENAI_STATUSES = {"bad": 400, "cannot": 400, "the step failed": 500}


def test_every_refusal_in_every_dialect() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for code, text, status, tei, tgi, openai in REFUSALS:
            triton.embed, triton.generate = refuse(code, text), refuse_stream(code, text)
            for (path, body), kind in ((EMBED, tei), (GENERATE, tgi), (CHAT, openai)):
                for stream in (False, True):
                    answer = await http.post(path, json={**body, "stream": stream})
                    found = answer.json()
                    error = found["error"] if kind == openai and path == CHAT[0] else found
                    message = error["message"] if path == CHAT[0] else error["error"]
                    name = error["type"] if path == CHAT[0] else error["error_type"]
                    wanted = OPENAI_STATUSES.get(text, status) if path == CHAT[0] else status
                    assert (answer.status_code, name) == (wanted, kind), (path, text, found)
                    assert text in message
                    assert ("retry-after" in answer.headers) == (status in (429, 503))

    run(scenario)


def test_a_failure_after_the_first_token_is_an_event_and_nothing_is_tried_again() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        async def fail(message: Any) -> AsyncIterator[Any]:
            yield chunk("one")
            # As if the connection were lost: before the first token, this would be tried again.
            raise Refusal(CODE.UNAVAILABLE, "failed to connect")

        triton.generate = fail
        answer = await http.post(CHAT[0], json={**CHAT[1], "stream": True})
        events = answer.text.strip().split("\n\n")
        assert answer.status_code == 200 and '"content":"one"' in events[-2]
        assert '"http_status_code":503' in events[-1] and "connect" in events[-1]
        await http.get("/health")
        assert len(triton.calls) == 1
        # Its status was 200, and still it counts as what it was.
        page = (await http.get("/metrics")).text
        assert 'tgi_request_failure{err="unhealthy"} 1' in page
        assert "tgi_request_success" not in page

    run(scenario)


def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies end what is silent for a minute: comments come before the first token and between."""
    monkeypatch.setattr("atoll_client.gateway.core.sse._SILENCE_S", 0.1)
    sent, num_comments = bytearray(), 1
    write = sse.Events._write

    async def noted(self: sse.Events[Any], send: Any, data: bytes) -> None:
        sent.extend(data)
        await write(self, send, data)

    monkeypatch.setattr(sse.Events, "_write", noted)

    async def silent(count: int, after: bytes = b"") -> None:
        """Until so many comments have been sent after what was said."""
        while after not in sent or sent[sent.find(after) :].count(b":\n\n") < count:
            await asyncio.sleep(0.01)

    async def slow(message: Any) -> AsyncIterator[Any]:
        await silent(2)
        yield chunk("one")
        await silent(2, after=b'"one"')
        yield chunk(" two", "stop")

    async def late(message: Any) -> AsyncIterator[Any]:
        await silent(num_comments)
        raise Refusal(CODE.UNAVAILABLE, "64 requests are held")
        yield

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        body = {**CHAT[1], "stream": True}
        triton.generate = slow
        answer = await http.post(CHAT[0], json=body)
        assert answer.headers["content-type"].startswith("text/event-stream")
        before, after = answer.text.split('"one"')
        assert before.count(":\n\n") >= 2 and after.count(":\n\n") >= 2
        assert answer.text.endswith("data: [DONE]\n\n")
        # The status is out by now, so the refusal is an event.
        sent.clear()
        triton.generate = late
        failed = await http.post(CHAT[0], json=body)
        *comments, event, rest = failed.text.split("\n\n")
        assert failed.status_code == 200 and set(comments) == {":"} and not rest
        assert json.loads(event.removeprefix("data: "))["error"]["http_status_code"] == 429
        # In time, it is a status as ever.
        nonlocal num_comments
        num_comments = 0
        monkeypatch.setattr("atoll_client.gateway.core.sse._SILENCE_S", 15.0)
        assert (await http.post(CHAT[0], json=body)).status_code == 429

    run(scenario)


def test_an_answer_without_an_end_is_incomplete() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        async def half(message: Any) -> AsyncIterator[Any]:
            yield chunk("one")

        triton.generate = half
        answer = await http.post("/generate", json=GENERATE[1])
        assert answer.status_code == 500
        assert answer.json()["error_type"] == "incomplete_generation"
        streamed = await http.post("/generate_stream", json=GENERATE[1])
        assert '"error_type":"incomplete_generation"' in streamed.text
        chat = await http.post(CHAT[0], json={**CHAT[1], "stream": True})
        assert '"http_status_code":500' in chat.text and "[DONE]" not in chat.text

    run(scenario)


def test_a_score_that_is_no_number() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        async def nan(message: Any) -> Any:
            return fake_triton.scores([float("nan"), 1.0])

        triton.embed = nan
        answer = await http.post("/rerank", json={"query": "a", "texts": ["b", "c"]})
        assert answer.status_code == 424
        assert answer.json() == {"error": "score is NaN", "error_type": "Backend"}

    run(scenario)


def test_too_many_requests_at_once() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        triton.embed = fake_triton.never
        held = asyncio.create_task(post(http, EMBED))
        while not triton.calls:
            await asyncio.sleep(0.01)
        answer = await post(http, GENERATE)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json()["error_type"] == "overloaded"
        assert "max_concurrent_requests is 1" in answer.json()["error"]
        held.cancel()

    run(scenario, max_concurrent_requests=1)


def test_an_answer_that_takes_too_long() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        triton.embed = fake_triton.never
        answer = await post(http, EMBED)
        assert (answer.status_code, answer.json()["error_type"]) == (504, "Backend")

    run(scenario, request_timeout_s=0.2)


def test_keys() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for headers in ({}, {"authorization": "Bearer no"}, {"authorization": "one"}):
            expected = 200 if headers.get("authorization") == "one" else 401
            answer = await http.post(EMBED[0], json=EMBED[1], headers=headers)
            assert answer.status_code == expected
        refused = await post(http, CHAT)
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json()["error"]["type"] == "authentication_error"
        for key in ("one", "two"):
            headers = {"authorization": f"Bearer {key}"}
            assert (await http.post(EMBED[0], json=EMBED[1], headers=headers)).is_success
        for path in ("/health", "/ping", "/metrics", "/docs"):
            assert (await http.get(path)).status_code == 200
        assert (await http.get("/v1/models")).status_code == 401

    run(scenario, api_key="one,two")


def test_bodies_have_a_limit() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"a" * 10

        told = await http.post("/embed", content=b"a" * 101)
        untold = await http.post("/embed", content=pieces())
        assert told.status_code == untold.status_code == 413
        assert told.json()["error"] == "the body has 101 bytes; the limit is 100"
        assert (await post(http, EMBED)).status_code == 200

    run(scenario, payload_limit=100)


def test_cross_origin_requests() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        origin = {"origin": "https://a.example", "access-control-request-method": "POST"}
        allowed = await http.options("/embed", headers=origin)
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        other = await http.options("/embed", headers={**origin, "origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
        answer = await http.post("/embed", json=EMBED[1], headers={"origin": "https://a.example"})
        assert answer.headers["access-control-allow-origin"] == "https://a.example"

    run(scenario, cors_allow_origin="https://a.example")


def test_request_ids_and_traces_are_passed_on() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        headers = {"x-request-id": "mine", "traceparent": trace}
        answer = await http.post(EMBED[0], json=EMBED[1], headers=headers)
        assert answer.headers["x-request-id"] == "mine"
        await http.post(GENERATE[0], json=GENERATE[1], headers=headers)
        assert [metadata["traceparent"] for metadata in triton.metadata] == [trace, trace]
        refused = await http.post("/embed", json={})
        assert len(refused.headers["x-request-id"]) == 16

    run(scenario)


def test_every_setting_is_documented_and_has_an_environment_twin() -> None:
    text = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()
    settings = text.partition("\n## Settings\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)`( \*)? \|", settings, re.MULTILINE))
    assert list(rows) == [one.name for one in fields(GatewaySettings)]
    for one in fields(GatewaySettings):
        value = "7" if isinstance(one.default, (int, float)) else "x"
        chosen = {
            "unknown_fields": "report", "log_requests": "json", "server": "host:7",
            "affinity": "session", "allow_runtime_lora": "1", "trusted_proxies": "10.0.0.0/8",
            "log_level": "debug", "log_format": "json",
        }  # fmt: skip
        value = chosen.get(one.name, value)
        name = f"ATOLL_GATEWAY_{one.name.upper()}"
        assert str(getattr(GatewaySettings.read((), {name: value}), one.name)) in (value, "7.0")
        alone = getattr(GatewaySettings.read((), {one.name.upper(): value}), one.name)
        assert (alone != one.default) == bool(rows[one.name]), one.name
        flag = f"--{one.name.replace('_', '-')}={value}"
        assert GatewaySettings.read([flag], {}) == GatewaySettings.read((), {name: value})
    with pytest.raises(SystemExit):
        GatewaySettings.read(["--unknown-fields=drop"], {})

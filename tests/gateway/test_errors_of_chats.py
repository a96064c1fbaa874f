"""Errors of Anthropic's and Ollama's routes, in whole answers and in streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fake_triton import FakeTriton, Refusal, chunk
from scripted import CHAT, CODE, EMBED, post, refuse_stream, run

from atoll_client.gateway.core import sse

PATH = "/v1/messages"
BODY: dict[str, Any] = {**CHAT[1], "max_tokens": 5}
# Anthropic's status and type, Ollama's status.
REFUSALS: list[tuple[Any, str, int, str, int]] = [
    (CODE.INVALID_ARGUMENT, "bad", 400, "invalid_request_error", 400),
    (CODE.UNIMPLEMENTED, "cannot", 400, "invalid_request_error", 400),
    (CODE.NOT_FOUND, "unknown model 'words'", 404, "not_found_error", 404),
    (CODE.INTERNAL, "the step failed", 500, "api_error", 500),
    (CODE.UNAVAILABLE, "64 requests are held", 529, "overloaded_error", 503),
    (CODE.UNAVAILABLE, "loading", 503, "api_error", 503),
    (CODE.DEADLINE_EXCEEDED, "Deadline Exceeded", 504, "timeout_error", 504),
]


def test_every_refusal() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for code, text, status, kind, ollama in REFUSALS:
            triton.generate = refuse_stream(code, text)
            for stream in (False, True):
                answer = await http.post(PATH, json={**BODY, "stream": stream})
                found = answer.json()
                assert (answer.status_code, found["error"]["type"]) == (status, kind), found
                assert found["type"] == "error" and text in found["error"]["message"]
                assert found["request_id"] == answer.headers["request-id"]
                assert ("retry-after" in answer.headers) == (status in (503, 529))
                answer = await http.post("/api/chat", json={**CHAT[1], "stream": stream})
                assert (answer.status_code, list(answer.json())) == (ollama, ["error"])
                assert text in answer.json()["error"]

    run(scenario)


def test_refusals_of_the_gateway() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for method, path, body, status, kind in (
            ("POST", PATH, {**BODY, "model": "x"}, 404, "not_found_error"),
            ("POST", PATH, {**BODY, "system": "a" * 3000}, 413, "request_too_large"),
            ("POST", f"{PATH}/batches", BODY, 404, "not_found_error"),
            ("GET", PATH, None, 405, "invalid_request_error"),
            ("POST", f"/words{PATH}", [], 400, "invalid_request_error"),
        ):
            answer = await http.request(method, path, json=body)
            assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind), path
        for method, path, body, status in (
            ("POST", "/api/chat", {"model": "x"}, 404),
            ("GET", "/api/nothing", None, 404),
            ("POST", "/api/generate", {"prompt": "a" * 3000}, 413),
            ("GET", "/api/chat", None, 405),
            ("POST", "/api/blobs/sha256:1", None, 501),
        ):
            answer = await http.request(method, path, json=body)
            assert (answer.status_code, list(answer.json())) == (status, ["error"]), path

    run(scenario, payload_limit=2000)


def test_a_silent_stream_gets_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll_client.gateway.core.sse._SILENCE_S", 0.05)
    sent, write = bytearray(), sse.Events._write

    async def noted(self: sse.Events[Any], send: Any, data: bytes) -> None:
        sent.extend(data)
        await write(self, send, data)

    monkeypatch.setattr(sse.Events, "_write", noted)

    async def slow(message: Any) -> AsyncIterator[Any]:
        while sse.PING not in sent:
            await asyncio.sleep(0.01)
        yield chunk("one", "stop")

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        triton.generate = slow
        answer = await post(http, (PATH, {**BODY, "stream": True}))
        assert answer.text.startswith("event: ping") and "one" in answer.text

    run(scenario)


def test_a_key_in_either_header() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for headers, status in (
            ({}, 401), ({"x-api-key": "x"}, 401), ({"x-api-key": "k"}, 200),
            ({"authorization": "Bearer k"}, 200), ({"authorization": "x", "x-api-key": "k"}, 200),
        ):  # fmt: skip
            for path, body in ((PATH, BODY), EMBED):
                answer = await http.post(path, json=body, headers=headers)
                assert answer.status_code == status, (path, headers)
        refused = (await http.post(PATH, json=BODY)).json()
        assert refused["error"]["type"] == "authentication_error"

    run(scenario, api_key="k")


def test_a_stream_that_fails_ends_with_the_error() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        async def fail(message: Any) -> AsyncIterator[Any]:
            yield chunk("one")
            raise Refusal(CODE.UNAVAILABLE, "64 requests are held")

        triton.generate = fail
        answer = await post(http, (PATH, {**BODY, "stream": True}))
        events = [event.splitlines() for event in answer.text.strip().split("\n\n")]
        names = [name.removeprefix("event: ") for name, _ in events]
        data = [json.loads(line.removeprefix("data: ")) for _, line in events]
        assert names == [one["type"] for one in data]
        assert names == [
            "message_start", "content_block_start", "content_block_delta", "error",
        ]  # fmt: skip
        assert data[-1]["error"]["type"] == "overloaded_error"
        lines = (await post(http, ("/api/chat", CHAT[1]))).text.splitlines()
        assert [list(json.loads(line))[-1] for line in lines] == ["done", "error"]

    run(scenario)

"""Requests and tokens a minute of each client: whom they stop, in which words, and for how long."""

from __future__ import annotations

import time
from typing import Any

import grpc.aio
import httpx
import pytest
from fake_triton import FakeTriton
from gateways import free_port
from scripted import CHAT, EMBED, GENERATE, post, run
from tritonclient.grpc import service_pb2 as pb

from atoll_client.gateway.core.client_limits import ClientLimits, RateLimited
from atoll_client.gateway.core.settings import GatewaySettings
from atoll_client.gateway.core.web import Request

KEYS = {"api_key": "one,two"}


def _with(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def _post(http: httpx.AsyncClient, asked: Any, key: str) -> httpx.Response:
    return await http.post(asked[0], json=asked[1], headers=_with(key))


def test_each_client_has_its_own_requests() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        first = await _post(http, EMBED, "one")
        assert first.status_code == 200
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert 0 < int(first.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
        assert (await _post(http, GENERATE, "one")).status_code == 200
        asked = len(triton.calls)
        refused = await _post(http, EMBED, "one")
        assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
        assert "requests_per_minute is 2" in refused.text
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert len(triton.calls) == asked
        assert (await _post(http, EMBED, "two")).status_code == 200
        # Whoever has no key is told that, and probes are answered.
        assert (await _post(http, EMBED, "three")).status_code == 401
        for _ in range(3):
            assert (await http.get("/health", headers=_with("one"))).status_code == 200

    run(scenario, requests_per_minute=2, **KEYS)


def test_nothing_is_limited_unless_asked_for() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        answer = await post(http, EMBED)
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]

    run(scenario)


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        (*CHAT, 429, ("error", "type", "rate_limit_error")),
        (*CHAT, 429, ("error", "code", "rate_limit_exceeded")),
        (*EMBED, 429, ("error_type", "Overloaded")),
        (*GENERATE, 429, ("error_type", "overloaded")),
        ("/v1/messages", {}, 429, ("error", "type", "rate_limit_error")),
        ("/api/chat", {}, 503, ()),
        ("/v2/models/x/infer", {}, 429, ()),
    ],
)
def test_each_interface_refuses_as_its_own_servers_do(
    path: str, body: Any, status: int, said: tuple[str, ...]
) -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        await post(http, EMBED)
        refused = await http.post(path, json=body)
        assert refused.status_code == status and "requests_per_minute is 1" in refused.text
        found = refused.json()
        for name in said[:-1]:
            found = found[name]
        assert not said or found == said[-1]

    run(scenario, requests_per_minute=1)


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_count_once_an_answer_has_ended(stream: bool) -> None:
    """The answer that goes beyond is whole; the next request has to wait."""

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        body = {**CHAT[1], "stream": stream}
        first = await http.post(CHAT[0], json=body)
        assert first.status_code == 200
        left = (await http.get("/v1/models")).headers["x-ratelimit-remaining-tokens"]
        assert left == "0"
        refused = await http.post(CHAT[0], json=body)
        assert refused.status_code == 429 and "tokens_per_minute is 3" in refused.text

    run(scenario, tokens_per_minute=3)


def _request(client: str, num_tokens: int = 0) -> Request:
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": []})
    request.client_name, request.usage.num_output_tokens = client, num_tokens
    return request


def test_the_window_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the last minute's four requests count when half of the next minute is over."""
    now = 1_200_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    limits = ClientLimits(GatewaySettings(requests_per_minute=4))
    for _ in range(4):
        limits.admit(_request("one"))
    with pytest.raises(RateLimited, match="requests_per_minute is 4") as refused:
        limits.admit(_request("one"))
    assert 0 < (refused.value.retry_after_s or 0) <= 60
    limits.admit(_request("two"))
    now += 90
    limits.admit(_request("one"))
    limits.admit(_request("one"))
    with pytest.raises(RateLimited):
        limits.admit(_request("one"))
    now += 120
    for _ in range(4):
        limits.admit(_request("one"))


def test_grpc_calls_and_messages_of_a_stream_count() -> None:
    port = free_port()

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ready = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelReady",
                pb.ModelReadyRequest.SerializeToString, pb.ModelReadyResponse.FromString,
            )  # fmt: skip
            statuses = list[Any]()
            for _ in range(3):
                try:
                    await ready(pb.ModelReadyRequest(name="e"))
                    statuses.append(grpc.StatusCode.OK)
                except grpc.aio.AioRpcError as error:
                    statuses.append(error.code())
            refused = grpc.StatusCode.RESOURCE_EXHAUSTED
            assert statuses == [grpc.StatusCode.OK, grpc.StatusCode.OK, refused]

    run(scenario, requests_per_minute=2, grpc_port=port)


def test_what_is_counted_is_forgotten() -> None:
    """Clients that come once take no memory for ever: two minutes later, they are gone."""
    limits = ClientLimits(GatewaySettings(requests_per_minute=5, tokens_per_minute=5))
    for number in range(50):
        request = _request(f"ip-{number}", 2)
        limits.admit(request)
        limits.ended(request)
    storage: Any = limits._window.storage
    assert len(storage.storage) == 100
    for key in storage.expirations:
        storage.expirations[key] = 0
    storage._MemoryStorage__expire_events()
    assert not storage.storage

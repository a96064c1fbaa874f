"""A gateway before a server that loads, reloads or has failed to load one of its models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from fake_triton import FakeTriton, Refusal
from scripted import CHAT, EMBED, MODELS, gateway, post, run

from atoll_client.gateway.core import server


def test_a_server_that_is_not_ready_for_one_model_answers_for_the_others() -> None:
    """Triton is not ready while any model loads, and never again once one has failed to. The
    gateway then answered every request of every model with 503, for minutes or for good."""

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        triton.is_ready = False
        await triton.looked_at()
        assert (await http.get("/health")).status_code == 200
        for path, body in (EMBED, CHAT):
            assert (await http.post(path, json=body)).status_code == 200

    run(scenario, health_interval_s=0.1)


def test_a_gateway_that_starts_beside_a_failed_load_serves_the_rest() -> None:
    async def scenario() -> None:
        async with FakeTriton(MODELS) as triton:
            triton.is_ready = False
            async with gateway(triton.address) as http:
                assert (await post(http, EMBED)).status_code == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("full_check_s", [0.0, 60.0])
def test_a_model_that_is_loaded_again_is_not_ready_and_then_back(
    full_check_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither unknown (404) meanwhile, nor does another model answer for it. Whether its
    process was asked lately makes no difference: that it answered is no sign of a crash."""
    monkeypatch.setattr(server, "_FULL_CHECK_S", full_check_s)
    models = {"a-vectors": MODELS["vectors"], **MODELS}
    without = {name: facts for name, facts in models.items() if name != "a-vectors"}

    async def scenario() -> None:
        async with (
            FakeTriton(models) as triton,
            gateway(triton.address, health_interval_s=0.1) as http,
        ):
            assert (await post(http, EMBED)).status_code == 200
            triton.models, triton.is_ready = without, False
            await triton.looked_at()
            answer = await post(http, EMBED)
            assert answer.status_code == 503
            assert "model 'a-vectors' is loading" in answer.json()["error"]
            assert (await http.post("/vectors/embed", json=EMBED[1])).status_code == 200
            triton.models, triton.is_ready = models, True
            await triton.looked_at()
            assert (await post(http, EMBED)).status_code == 200
            assert set(triton.calls) == {"a-vectors", "vectors"}
            # Unloaded for good: now the next of its kind is the default.
            triton.models = without
            await triton.looked_at()
            assert (await post(http, EMBED)).status_code == 200
            gone = await http.post("/a-vectors/embed", json=EMBED[1])
            assert gone.status_code == 404

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'x' has no available versions"),
        (
            grpc.StatusCode.UNAVAILABLE,
            "Server is stopping, scheduler for model has stopped accepting new inference requests",
        ),
    ],
)
def test_a_server_that_ends_is_passed_over(code: grpc.StatusCode, text: str) -> None:
    """Until the gateway looked again, one of two servers that was restarted answered its share of
    the requests with 404, which no client tries again."""

    async def embed(message: Any) -> Any:
        raise Refusal(code, text)

    async def generate(message: Any) -> AsyncIterator[Any]:
        raise Refusal(code, text)
        yield

    async def scenario() -> None:
        async with (
            FakeTriton(MODELS) as one,
            FakeTriton(MODELS) as two,
            gateway(one.address, two.address) as http,
        ):
            one.embed, one.generate = embed, generate
            for request in (EMBED, CHAT) * 3:
                assert (await post(http, request)).status_code == 200
            two.embed, two.generate = embed, generate
            for request in (EMBED, CHAT):
                answer = await post(http, request)
                assert (answer.status_code, text in answer.text) == (503, True)

    asyncio.run(scenario())

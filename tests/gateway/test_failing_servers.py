"""Servers that fail: which requests are tried again, and which servers are spared."""

from __future__ import annotations

import asyncio

import fake_triton
import httpx
import pytest
from fake_triton import FakeTriton
from scripted import CHAT, CODE, EMBED, GENERATE, MODELS, gateway, post, refuse, refuse_stream

from atoll_client.gateway.core.circuit import THRESHOLD, Circuit, RetryBudget


def test_a_circuit_opens_closes_and_waits_longer_each_time() -> None:
    now = [0.0]
    circuit = Circuit(lambda: now[0], lambda: 1.0)
    for _ in range(THRESHOLD - 1):
        circuit.fail()
        assert circuit.state == Circuit.CLOSED and not circuit.is_probe()
    waits = []
    for _ in range(9):
        circuit.fail()
        assert circuit.state == Circuit.OPEN and not circuit.is_probe()
        waits.append(circuit.wait_s)
        now[0] += circuit.wait_s
        assert circuit.state == Circuit.HALF_OPEN
        # A single request shows whether it works again.
        assert circuit.is_probe() and not circuit.is_probe()
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    half = Circuit(lambda: 0.0, lambda: 0.0)
    half.spare(0.25)
    assert half.state == Circuit.OPEN and half.wait_s == 0.25


def test_a_budget_of_retries() -> None:
    budget = RetryBudget(0.5)
    assert sum(budget.take() for _ in range(200)) == 100
    for _ in range(10):
        budget.earn()
    assert sum(budget.take() for _ in range(200)) == 5
    assert not RetryBudget(0.0).take()


async def _metric(http: httpx.AsyncClient, name: str) -> float:
    lines = (await http.get("/metrics")).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("request_", [EMBED, GENERATE], ids=["embed", "generate"])
def test_a_server_that_fails_again_and_again_is_spared(request_: tuple[str, object]) -> None:
    async def scenario() -> None:
        async with (
            FakeTriton(MODELS) as one,
            FakeTriton(MODELS) as two,
            gateway(one.address, two.address, affinity="none") as http,
        ):
            one.embed = refuse(CODE.INTERNAL, "a step failed")
            one.generate = refuse_stream(CODE.INTERNAL, "a step failed")
            statuses = [(await post(http, request_)).status_code for _ in range(20)]
            assert statuses == [424] * THRESHOLD + [200] * (20 - THRESHOLD)
            assert len(one.calls) == THRESHOLD
            model = request_ is EMBED and "vectors" or "words"
            state = f'atoll_gateway_circuit_state{{model="{model}",server="{one.address}"}}'
            assert await _metric(http, state) == Circuit.OPEN
            # Its next request shows that it works again.
            one.embed, one.generate = fake_triton.vectors, fake_triton.words
            app = http._transport.app  # type: ignore[attr-defined]
            (circuit,) = app.context.pool.servers[0].circuits.values()
            circuit._until = 0.0
            assert await _metric(http, state) == Circuit.HALF_OPEN
            assert (await post(http, request_)).status_code == 200
            assert len(one.calls) == THRESHOLD + 1
            assert await _metric(http, state) == 0 and not app.context.pool.servers[0].circuits

    asyncio.run(scenario())


def test_a_full_server_is_spared_as_long_as_it_says() -> None:
    async def scenario() -> None:
        text = "64 requests are held; max_concurrent_requests is 64"
        async with (
            FakeTriton(MODELS) as one,
            FakeTriton(MODELS) as two,
            gateway(one.address, two.address, affinity="none") as http,
        ):
            one.embed = refuse(CODE.UNAVAILABLE, text, ("retry-after", "7"))
            one.generate = refuse_stream(CODE.UNAVAILABLE, text, ("grpc-retry-pushback-ms", "7000"))
            for asked in (EMBED, GENERATE):
                for _ in range(3):
                    assert (await post(http, asked)).status_code == 200
            assert one.calls == ["vectors", "words"]
            assert await _metric(http, 'atoll_gateway_retries_total{error="Overloaded"}') == 2
            # Both are full: the client is told when to come back.
            two.embed = refuse(CODE.UNAVAILABLE, text, ("retry-after", "5"))
            answer = await post(http, EMBED)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")

    asyncio.run(scenario())


def test_without_a_budget_nothing_is_tried_again() -> None:
    async def scenario() -> None:
        async with (
            FakeTriton(MODELS) as one,
            FakeTriton(MODELS) as two,
            gateway(one.address, two.address, affinity="none", retry_budget=0.0) as http,
        ):
            one.embed = refuse(CODE.UNAVAILABLE, "Socket closed")
            assert (await post(http, EMBED)).status_code == 503
            assert not two.calls
            assert await _metric(http, "atoll_gateway_retries_refused_total") == 1

    asyncio.run(scenario())


def test_what_has_begun_to_answer_is_not_tried_again() -> None:
    async def scenario() -> None:
        async with (
            FakeTriton(MODELS) as one,
            FakeTriton(MODELS) as two,
            gateway(one.address, two.address, affinity="none") as http,
        ):

            async def breaks(message: object) -> object:
                yield fake_triton.chunk("one")
                await asyncio.sleep(0.1)
                raise fake_triton.Refusal(CODE.UNAVAILABLE, "Socket closed")

            one.generate = breaks
            answer = await http.post(CHAT[0], json={**CHAT[1], "stream": True})
            assert '"content":"one"' in answer.text and "Socket closed" in answer.text
            assert not two.calls

    asyncio.run(scenario())

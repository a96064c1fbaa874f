"""Clients that leave: whatever route, streamed or not, before the first token or after."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from typing import Any

import httpx
import psutil
import pytest
from gateways import EMBEDDER, GENERATOR, Served

from atoll_client import AsyncClient
from atoll_client.errors import ValidationError

MANY = 2000
LONG: Any = {"max_new_tokens": MANY, "do_sample": True}
CHAT: Any = {
    "model": GENERATOR, "max_tokens": MANY, "messages": [{"role": "user", "content": "Count."}],
}  # fmt: skip
REQUESTS: list[tuple[str, Any]] = [
    ("/generate", {"inputs": "One, two,", "parameters": LONG}),
    ("/generate_stream", {"inputs": "One, two,", "parameters": LONG}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/chat/completions", {**CHAT, "stream": True, "n": 2}),
    ("/v1/completions", {"prompt": ["One, two,", "A, b,"], "max_tokens": MANY}),
]
GAUGES = ("atoll_requests_running", "atoll_requests_waiting", "atoll_kv_usage")


def _values(http: httpx.Client) -> dict[str, float]:
    found = {}
    for line in http.get("/metrics").text.splitlines():
        name, _, value = line.rpartition(" ")
        if not line.startswith("#"):
            found[name] = float(value)
    return found


def _gauges(http: httpx.Client) -> dict[str, float]:
    values = _values(http)
    return {name: values[f'{name}{{model="{GENERATOR}"}}'] for name in GAUGES}


async def _leave(
    port: int, path: str, body: Any, after_s: float, is_rude: bool,
    until: asyncio.Event | None = None,
) -> None:  # fmt: skip
    """Sends a request and closes the connection: in order, or by a reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    await asyncio.sleep(after_s)
    if until is not None:
        await asyncio.wait_for(until.wait(), 60)
    if is_rude:
        writer.transport.abort()
    else:
        writer.close()


def test_a_hundred_clients_that_leave_leave_nothing_behind(
    served: Served, http: httpx.Client
) -> None:
    chance = random.Random(3)
    port = served.gateway.options.port

    async def all_at_once() -> dict[str, float]:
        # The last one stays until the page has shown the work, however slow the machine is.
        is_seen = asyncio.Event()
        work = [
            asyncio.create_task(
                _leave(
                    port, *REQUESTS[i % len(REQUESTS)], chance.random(), i % 2 == 0,
                    is_seen if i == 99 else None,
                )
            )
            for i in range(100)
        ]  # fmt: skip
        seen = dict.fromkeys(GAUGES, 0.0)
        while not all(task.done() for task in work):
            now = await asyncio.to_thread(_gauges, http)
            seen = {name: max(value, now[name]) for name, value in seen.items()}
            if seen["atoll_requests_running"] > 0 and seen["atoll_kv_usage"] > 0:
                is_seen.set()
        await asyncio.gather(*work)
        return seen

    before = _values(http)
    most = asyncio.run(all_at_once())
    assert most["atoll_requests_running"] > 0 and most["atoll_kv_usage"] > 0
    ended = time.monotonic()
    while any(_gauges(http).values()):
        assert time.monotonic() - ended < 60, _gauges(http)
        time.sleep(0.02)
    took = time.monotonic() - ended

    after = _values(http)
    dropped = 'tgi_request_failure{err="dropped"}'
    assert after[dropped] - before.get(dropped, 0) == 100, took
    # Not seconds, which depend on what else the machine does: what was computed for nobody.
    tokens = f'atoll_output_tokens_total{{model="{GENERATOR}"}}'
    assert after[tokens] - before.get(tokens, 0) < 0.05 * 100 * MANY, took
    assert http.post("/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 1}})


def test_a_hail_of_refusals_and_leavers_does_not_bring_the_server_down(
    served: Served, http: httpx.Client
) -> None:
    """Triton dies of a call that is broken off at its end, and of errors as a stream's status."""
    chance = random.Random(5)
    too_long: Any = {"inputs": "a", "parameters": {"max_new_tokens": 9000}}
    short: Any = {"inputs": "One", "parameters": {"max_new_tokens": 2}}

    async def visit(client: AsyncClient, number: int) -> None:
        if number % 3 == 0:
            with pytest.raises(ValidationError):
                await client.generate("a", max_tokens=9000)
        elif number % 3 == 1:
            await _leave(served.gateway.options.port, "/generate", too_long, 0.02, False)
            after_s = 0.1 * chance.random()
            await _leave(served.gateway.options.port, "/generate_stream", short, after_s, True)
        else:
            with contextlib.suppress(asyncio.TimeoutError):
                texts = ["word " * chance.randrange(1, 50)]
                await asyncio.wait_for(client.embed(texts), 0.03 * chance.random())

    async def visitor(client: AsyncClient, first: int) -> None:
        for number in range(first, 600, 8):
            await visit(client, number)

    async def hail() -> None:
        async with AsyncClient(served.server.grpc_url) as client:
            await asyncio.gather(*(visitor(client, first) for first in range(8)))

    asyncio.run(hail())
    assert psutil.pid_exists(served.server.pid) and http.get("/health").status_code == 200
    assert served.server.log_tail(400).count("HandleCancellation") == 0
    answer = http.post("/generate", json=short, timeout=60).json()
    assert answer["generated_text"]


def test_a_client_that_leaves_while_it_sends(served: Served, http: httpx.Client) -> None:
    async def half() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", served.gateway.options.port)
        writer.write(b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
        await writer.drain()
        writer.transport.abort()

    asyncio.run(half())
    assert http.get("/health").status_code == 200


def test_embeddings_that_nobody_waits_for(served: Served, http: httpx.Client) -> None:
    """A unary call is cancelled too: what still waits in the model's queue is never run."""
    body = {"inputs": ["word " * 200] * 32}
    tokens = f'atoll_input_tokens_total{{model="{EMBEDDER}"}}'

    async def flood() -> None:
        await asyncio.gather(
            *(_leave(served.gateway.options.port, "/embed", body, 0.1, True) for _ in range(6))
        )

    before = _values(http)
    asyncio.run(flood())
    assert len(http.post("/embed", json={"inputs": "a"}, timeout=60).json()) == 1
    after = _values(http)
    dropped = 'te_request_failure{err="dropped"}'
    assert after[dropped] - before.get(dropped, 0) == 6
    assert after[tokens] - before.get(tokens, 0) < 6 * 32 * 200 / 2

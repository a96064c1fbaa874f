"""A gateway before two real servers, of which one hangs and is killed under load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gateways import start_gateway
from in_process import write_generator
from small_models import StartServer

from atoll.catalogue import Entry
from atoll.launcher import ServerProcess

NUM_CLIENTS = 12


@contextlib.contextmanager
def stopped(process: int) -> Iterator[None]:
    """A process that hangs."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


async def _readiness(http: httpx.AsyncClient, server: ServerProcess) -> float:
    name = f'atoll_gateway_server_ready{{server="{server.grpc_url}"}} '
    page = (await http.get("/metrics")).text
    (line,) = [line for line in page.splitlines() if line.startswith(name)]
    return float(line.removeprefix(name))


async def _until(http: httpx.AsyncClient, server: ServerProcess, is_ready: bool) -> None:
    while await _readiness(http, server) != is_ready:
        await asyncio.sleep(0.05)


class Load:
    """Clients that ask one prompt after the other. ``answers``: how each has ended."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http, self.answers = http, Counter[int]()
        self._is_over, self._tasks = False, list[asyncio.Task[None]]()

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._client(at)) for at in range(NUM_CLIENTS)]
        await self.more(2 * NUM_CLIENTS)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 60)

    async def more(self, count: int) -> None:
        """Until so many further requests have been answered."""
        goal = self.answers[200] + count
        while self.answers[200] < goal:
            done, _ = await asyncio.wait(self._tasks, timeout=0.02)
            assert not done, done

    async def _client(self, number: int) -> None:
        at = 0
        while not self._is_over:
            at += 1
            body = {"prompt": f"{number} {at}", "max_tokens": 40, "ignore_eos": True}
            answer = await self._http.post("/v1/completions", json=body)
            self.answers[answer.status_code] += 1
            if answer.status_code == 200:
                assert answer.json()["usage"]["completion_tokens"] == 40
            else:
                assert answer.status_code == 503 and "retry-after" in answer.headers, answer.text
                await asyncio.sleep(0.05)


@pytest.fixture
def pair(tmp_path: Path, start_server: StartServer) -> list[ServerProcess]:
    folder = write_generator(tmp_path / "tiny")
    entry = Entry("tiny", str(folder), "generate", "llama")
    start: Callable[[int], ServerProcess] = lambda _: start_server(entries=(entry,))  # noqa: E731
    with ThreadPoolExecutor(2) as starts:
        return list(starts.map(start, range(2)))


def test_every_request_is_answered_or_refused(pair: list[ServerProcess]) -> None:
    """Neither a server that hangs nor one that is killed loses requests, or delays them for long:
    they waited for 600 seconds."""
    one, two = pair
    addresses = f"{one.grpc_url},{two.grpc_url}"
    gateway = start_gateway(addresses, server_silence_s="2", health_interval_s="0.2")

    async def scenario() -> None:
        async with httpx.AsyncClient(base_url=gateway.options.url, timeout=60) as http:
            await _until(http, one, True)
            async with Load(http) as load:
                with stopped(one.pid):
                    await _until(http, one, False)
                    await load.more(2 * NUM_CLIENTS)
                await _until(http, one, True)
                await load.more(2 * NUM_CLIENTS)
                os.kill(one.pid, signal.SIGKILL)
                await load.more(4 * NUM_CLIENTS)
                assert not await _readiness(http, one)
            # What the servers did not answer was answered by the other one, but for a few.
            assert load.answers[503] <= 3, load.answers
            page = (await http.get("/metrics")).text
            assert 'atoll_gateway_retries_total{error="Lost"}' in page

    try:
        gateway.wait_ready()
        asyncio.run(scenario())
    finally:
        gateway.stop()

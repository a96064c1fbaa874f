"""What the clients do when a server refuses, is late or goes away, over both transports."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import fake_triton
import grpc
import pytest
from aiohttp import web
from fake_triton import FakeTriton, Refusal
from gateways import GENERATOR, Served
from measured import metrics

from atoll_client import AsyncClient, Client, retry
from atoll_client.errors import (
    AtollError,
    DeadlineExceeded,
    GenerationError,
    Lost,
    NotFound,
    NotReady,
    Overloaded,
    Unreached,
    ValidationError,
    from_stream,
)

MODELS: dict[str, dict[str, Any]] = {
    "e": {"task": "embed", "max_client_batch_size": 4},
    "g": {"task": "generate"},
}
FULL = Refusal(grpc.StatusCode.UNAVAILABLE, "64 requests are held")
RESET = Refusal(grpc.StatusCode.UNAVAILABLE, "recvmsg: connection reset by peer")


def run(scenario: Callable[[FakeTriton, AsyncClient], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        async with (
            FakeTriton(MODELS) as triton, AsyncClient(triton.address, **options) as client,
        ):  # fmt: skip
            await scenario(triton, client)

    asyncio.run(whole())


def refusing(times: int, refusal: Refusal) -> fake_triton.Embed:
    """Answers after so many refusals."""
    left = times

    async def script(message: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise refusal
        return await fake_triton.vectors(message)

    return script


def test_a_full_server_is_asked_again_but_not_for_ever() -> None:
    async def scenario(triton: FakeTriton, client: AsyncClient) -> None:
        triton.embed = refusing(2, FULL)
        began = time.monotonic()
        assert (await client.embed(["a"])).shape == (1, 4)
        # Pauses of 0.2 and 0.4 s.
        assert len(triton.calls) == 3 and time.monotonic() - began >= 0.6
        triton.embed = refusing(9, FULL)
        with pytest.raises(Overloaded, match="64"):
            await client.embed(["a"])
        assert len(triton.calls) == 3 + 3

    run(scenario, retries=2)


def test_what_may_have_begun_is_not_asked_again() -> None:
    async def broken(message: Any) -> AsyncIterator[Any]:
        yield fake_triton.chunk("one")
        raise FULL

    async def scenario(triton: FakeTriton, client: AsyncClient) -> None:
        triton.embed = refusing(9, RESET)
        with pytest.raises(Lost, match=r"process of model 'e' is unavailable.*reset by peer"):
            await client.embed(["a"])
        assert len(triton.calls) == 1
        triton.generate = broken
        texts = []
        with pytest.raises(Overloaded):
            async for chunk in client.stream("a"):
                texts.append(chunk.text)
        assert texts == ["one"] and len(triton.calls) == 2

    run(scenario)


def test_a_deadline_covers_all_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0

    async def pause(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    async def scenario(triton: FakeTriton, client: AsyncClient) -> None:
        triton.embed = refusing(99, FULL)
        with monkeypatch.context() as patched:
            patched.setattr(retry, "time", SimpleNamespace(monotonic=lambda: now_s))
            patched.setattr(retry, "asyncio", SimpleNamespace(sleep=pause))
            with pytest.raises(Overloaded):
                await client.within(10).embed(["a"])
        # After pauses of 0.2, 0.4, 0.8, 1.6 and 3.2 s, one of 5 s would be too long.
        assert len(triton.calls) == 6
        triton.embed = fake_triton.never
        with pytest.raises(DeadlineExceeded):
            await client.within(0.2).embed(["a"])
        # The client's own deadline is as it was.
        triton.embed = fake_triton.vectors
        assert (await client.embed(["a"])).shape == (1, 4)

    run(scenario, retries=9)


@pytest.mark.parametrize("how", ["leave", "deadline"])
@pytest.mark.parametrize("model", ["g", "e"])
def test_the_model_is_asked_to_cancel_and_the_call_goes_on_to_its_end(model: str, how: str) -> None:
    """A call that is broken off at its end may bring the whole server down."""
    ended: list[str] = []

    async def scenario(triton: FakeTriton, client: AsyncClient) -> None:
        async def vectors(message: Any) -> Any:
            await triton.questioned.wait()
            ended.append(message.id)
            raise Refusal(grpc.StatusCode.CANCELLED, "the client has left")

        async def words(message: Any) -> AsyncIterator[Any]:
            yield fake_triton.chunk("one")
            await triton.questioned.wait()
            yield fake_triton.chunk("", "stop")
            ended.append(message.id)

        triton.embed, triton.generate = vectors, words
        work = client.generate("a") if model == "g" else client.embed(["a"])
        task = asyncio.ensure_future(work)
        if how == "leave":
            while not triton.calls:
                await asyncio.sleep(0.01)
            task.cancel()
        with pytest.raises((DeadlineExceeded, asyncio.CancelledError)) as caught:
            await task
        assert (caught.type is DeadlineExceeded) == (how == "deadline")
        deadline = time.monotonic() + 60
        while not ended:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert triton.questions == [{"op": "cancel", "request_id": ended[0]}]

    run(scenario, timeout_s=0.5 if how == "deadline" else 60.0)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"error": "top_k is -1", "error_type": "validation"}', ValidationError),
        ('{"error": "64 requests are held", "error_type": "overloaded"}', Overloaded),
        ('{"error": "the model is shutting down", "error_type": "unhealthy"}', NotReady),
        ('{"error": "it broke", "error_type": "generation"}', GenerationError),
        ("Request for unknown model: 'nix' is not found", NotFound),
        ("Stub process 'g_0_0' is not healthy.", NotReady),
        ("[request id: 7] inference request for sequence 1 must specify START", ValidationError),
        ("inference request to model 'm' must specify a non-zero correlation ID", ValidationError),
        ("17", GenerationError),
    ],
)
def test_errors_of_streams_are_told_by_their_text(text: str, kind: type[AtollError]) -> None:
    error = from_stream(text)
    assert type(error) is kind
    # A process that has ended is named in words that a client understands, too.
    shown = str(error).removeprefix("the process of model 'g' has ended: ")
    assert shown and shown in text and ("Stub process" in text) == (shown != str(error))


def test_long_lists_go_in_parts_in_order_and_stop_when_one_fails() -> None:
    async def scenario(triton: FakeTriton, client: AsyncClient) -> None:
        assert (await client.embed([str(i) for i in range(11)])).shape == (11, 4)
        assert len(triton.calls) == 3
        triton.embed = fake_triton.never
        task = asyncio.create_task(client.embed([str(i) for i in range(40)]))
        while len(triton.calls) < 3 + 4:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # Four at once; the other six were never sent.
        await asyncio.sleep(0.1)
        assert len(triton.calls) == 3 + 4
        wrong = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "text 3 is empty")
        triton.embed = refusing(1, wrong)
        with pytest.raises(ValidationError, match="text 3"):
            await client.embed([str(i) for i in range(400)])
        sent = len(triton.calls)
        await asyncio.sleep(0.1)
        assert sent < 3 + 4 + 100 and len(triton.calls) <= sent + 4

    run(scenario)


def test_http_refusals() -> None:
    """The same over HTTP, from a server that is scripted by status."""
    asked: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(503)
        if request.match_info["model"] == "late":
            await asyncio.sleep(5)
        if request.match_info["model"] == "gone":
            assert request.transport is not None
            request.transport.abort()
        full = {1: "64 requests are held", 2: "Exceeds maximum queue size"}
        return web.json_response({"error": full.get(len(asked), "shutting down")}, status=503)

    async def whole() -> None:
        app = web.Application()
        app.router.add_post("/v2/models/{model}/infer", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with AsyncClient(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
                with pytest.raises(NotReady, match="shutting down"):
                    await client.infer("full", {"x": ["a"]})
                assert len(asked) == 3
                with pytest.raises(NotReady, match="went away"):
                    await client.infer("gone", {"x": ["a"]})
                assert len(asked) == 4
                with pytest.raises(DeadlineExceeded):
                    await client.within(0.2).infer("late", {"x": ["a"]})
        finally:
            await runner.cleanup()

    asyncio.run(whole())


def running(metrics_url: str) -> float:
    """Requests that the generator works on."""
    with urllib.request.urlopen(metrics_url) as response:
        lines = response.read().decode().splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith("atoll_requests_running{")
    )


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_real_server_is_left_in_time(served: Served, transport: str) -> None:
    server = served.server

    def tokens() -> float:
        return metrics(server, GENERATOR).get("atoll_output_tokens_total", 0.0)

    with Client(server.grpc_url if transport == "grpc" else server.http_url) as client:
        # Warm, so that the deadline ends the generation and nothing else.
        client.generate("a", max_tokens=1)
        before = tokens()
        with pytest.raises(AtollError) as late:
            client.within(0.4).generate("a", max_tokens=4000, ignore_eos=True)
        assert isinstance(late.value, DeadlineExceeded)
        # Left long before its end, however fast the machine is.
        assert tokens() - before < 2000
        deadline = time.monotonic() + 60
        while running(server.metrics_url) > 0:
            assert time.monotonic() < deadline, "the server is still at work"
            time.sleep(0.1)
        with pytest.raises(Unreached):
            Client(
                "http://127.0.0.1:1" if transport == "http" else "127.0.0.1:1", retries=0
            ).models()

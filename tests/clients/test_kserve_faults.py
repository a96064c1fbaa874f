"""Servers that answer too much, too late or nonsense, and clients that do not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from fake_triton import FakeTriton, Refusal, chunk, never, vectors
from scripted import MODELS, run
from tritonclient.grpc import service_pb2 as pb

from atoll_client import grpc_calls, kserve

TEXT = {"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": ["a"]}
INFER = ("/v2/models/vectors/infer", {"inputs": [TEXT]})
STREAM = ("/v2/models/words/generate_stream", {"text_input": "a"})


def test_a_server_is_read_no_faster_than_the_caller_reads() -> None:
    """All that came was kept: one slow reader could fill the gateway's memory."""
    count = 2000

    async def scenario() -> None:
        sent = 0

        async def much(message: Any) -> AsyncIterator[Any]:
            nonlocal sent
            for number in range(count):
                sent = number
                yield chunk(f"{number:010}" * 1000)

        async with FakeTriton(MODELS) as triton:
            triton.generate = much
            async with grpc.aio.insecure_channel(triton.address) as channel:
                made = grpc_calls.Calls(channel)
                responses = made.responses(kserve.request("words"), 60.0)
                numbers = []
                async for response in responses:
                    numbers.append(int(kserve.outputs(response)["text_output"][0][:10]))
                    if numbers == [0]:
                        seen = -1
                        while seen != sent:
                            seen = sent
                            await asyncio.sleep(0.3)
                        # 20 MB in all: most of it has not been asked for.
                        assert sent < count * 3 / 4
                assert numbers == list(range(count))
                await made.close()

    asyncio.run(scenario())


def test_who_leaves_frees_a_stream_that_was_full() -> None:
    async def scenario() -> None:
        ended = asyncio.Event()

        async def endless(message: Any) -> AsyncIterator[Any]:
            for _ in range(600):
                yield chunk("a" * 10_000)
            ended.set()

        async with FakeTriton(MODELS) as triton:
            triton.generate = endless
            async with grpc.aio.insecure_channel(triton.address) as channel:
                made = grpc_calls.Calls(channel)
                responses = made.responses(kserve.request("words"), 60.0)
                await anext(responses)
                await asyncio.sleep(0.2)
                await responses.aclose()
                # What still comes is dropped, and the call ends by itself.
                await asyncio.wait_for(ended.wait(), 30)
                await made.close()

    asyncio.run(scenario())


def test_answers_that_are_broken() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        async def short(message: Any) -> Any:
            found = await vectors(message)
            found.raw_output_contents[0] = b"\0" * 7
            return found

        async def none(message: Any) -> Any:
            found = await vectors(message)
            del found.raw_output_contents[:]
            return found

        for script in (short, none):
            triton.embed = script
            answer = await http.post(INFER[0], json=INFER[1])
            assert answer.status_code == 500 and "server's answer" in answer.json()["error"]
        triton.embed = vectors
        answer = await http.post(INFER[0], json={**INFER[1], "id": "mine"})
        assert (answer.status_code, answer.json()["id"]) == (200, "mine")

    run(scenario)


def test_answers_that_are_late() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        triton.embed = never
        late = await http.post(INFER[0], json=INFER[1])
        assert late.status_code == 504 and "no answer within" in late.json()["error"]

    run(scenario, request_timeout_s=0.5)


def test_answers_that_break_off() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        async def half(message: Any) -> AsyncIterator[Any]:
            yield chunk("one")
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "Socket closed")

        triton.generate = half
        broken = await http.post(STREAM[0], json=STREAM[1])
        *_, last = broken.text.strip().split("\n\n")
        assert '"text_output":"one"' in broken.text
        assert '"error":"the process of model' in last and "(Socket closed)" in last

    run(scenario)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_reads_nothing_is_left(is_stream: bool) -> None:
    """It held its place, and what was meant for it, for as long as it liked."""
    from atoll_client.gateway.core.settings import GatewaySettings
    from atoll_client.gateway.main import application

    async def scenario() -> None:
        async def much(message: Any) -> AsyncIterator[Any]:
            while True:
                yield chunk("a" * 1000)
                await asyncio.sleep(0)

        async def large(message: Any) -> Any:
            found = pb.ModelInferResponse(model_name="vectors")
            found.outputs.add(name="embedding", datatype="UINT8", shape=[200_000])
            found.raw_output_contents.append(b"\1" * 200_000)
            return found

        async with FakeTriton(MODELS) as triton:
            triton.generate, triton.embed = much, large
            settings = GatewaySettings(server=triton.address, write_timeout_s=0.3)
            app = application(settings)
            await app.context.pool.start()
            path, body = STREAM if is_stream else INFER
            inbox: asyncio.Queue[Any] = asyncio.Queue()
            raw = httpx.Request("POST", "http://x", json=body).content
            await inbox.put({"type": "http.request", "body": raw})
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)
                if len(sent) > 2:
                    await asyncio.Event().wait()

            scope = {"type": "http", "method": "POST", "path": path, "headers": []}
            await asyncio.wait_for(app(scope, inbox.get, send), 20)
            # The start, and what the socket took; then it was given up, and nothing is held.
            admission = app.context.admission
            assert len(sent) == 3 and (admission.num_open, admission.num_bytes) == (0, 0)
            await app.context.pool.stop()

    asyncio.run(scenario())

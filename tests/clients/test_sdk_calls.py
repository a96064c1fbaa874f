"""The clients' own part of a call: what is asked of the server, and what is made of nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from fake_triton import FakeTriton

from atoll_client import AsyncClient
from atoll_client.errors import NotFound, ValidationError

MODELS: dict[str, dict[str, Any]] = {
    "e": {"task": "embed", "dimensions": 4},
    "g": {"task": "generate"},
    "r": {"task": "rerank"},
    "c": {"task": "classify"},
    "s": {"task": "sparse"},
}


class Counting(FakeTriton):
    """Counts how often it is asked what models it has."""

    num_discoveries = 0

    async def _statistics(self, message: Any, context: Any) -> Any:
        self.num_discoveries += 1
        return await super()._statistics(message, context)


@asynccontextmanager
async def asked() -> AsyncIterator[tuple[Counting, AsyncClient]]:
    async with Counting(MODELS) as triton, AsyncClient(triton.address) as client:
        yield triton, client


@pytest.mark.parametrize("at_once", [True, False])
def test_models_are_found_out_once(at_once: bool) -> None:
    """Each ``within`` asked the server for all of its models again."""

    async def scenario() -> None:
        async with asked() as (triton, client):
            calls = [client.within(5.0 + i).embed(["a"]) for i in range(20)]
            if at_once:
                await asyncio.gather(*calls)
            else:
                for call in calls:
                    await call
            assert triton.num_discoveries == 1 and len(triton.calls) == 20
            await client.within(9.0).embed(["a"])
            assert triton.num_discoveries == 1

    asyncio.run(scenario())


def test_a_model_that_was_loaded_since_is_found() -> None:
    async def scenario() -> None:
        async with asked() as (triton, client):
            await client.embed(["a"])
            triton.models = {**MODELS, "later": {"task": "embed"}}
            assert (await client.embed(["a"], "later")).shape == (1, 4)
            with pytest.raises(NotFound, match="'never'"):
                await client.embed(["a"], "never")

    asyncio.run(scenario())


def test_a_text_is_no_list_of_texts() -> None:
    """Its characters were taken for texts, and answered one by one."""

    async def scenario() -> None:
        async with asked() as (triton, client):
            for call, name in (
                (client.rerank("a", "bc"), "texts"),
                (client.classify("bc"), "texts"),
                (client.classify(["bc"], pairs="d"), "pairs"),
                (client.embed_all("bc"), "texts"),
                (client.embed_sparse("bc"), "texts"),
                (client.similarity("a", "bc"), "sentences"),
                (client.tokenize("bc", "e"), "texts"),
            ):
                with pytest.raises(ValidationError, match=f"{name} is '.*'; expected a list of"):
                    await call
            assert not triton.calls

    asyncio.run(scenario())


def test_nothing_in_nothing_out() -> None:
    """An empty list of texts was numpy's ValueError."""

    async def scenario() -> None:
        async with asked() as (triton, client):
            for options in ({}, {"progress": True}, {"shared_memory": True}):
                vectors = await client.embed([], **options)
                assert vectors.shape == (0, 4) and vectors.dtype == np.float32
            assert (await client.embed((), dimensions=2)).shape == (0, 2)
            assert await client.embed_sparse([]) == await client.embed_all([]) == []
            assert await client.rerank("q", []) == []
            assert await client.classify([]) == await client.classify([], pairs=[]) == []
            assert not triton.calls

    asyncio.run(scenario())


@pytest.mark.parametrize("pairs", [[], ["x"], ["x"] * 3])
def test_as_many_pairs_as_texts(pairs: list[str]) -> None:
    """An empty list of them was ignored."""

    async def scenario() -> None:
        async with asked() as (_, client):
            with pytest.raises(ValidationError, match=f"2 texts, and {len(pairs)} pairs"):
                await client.classify(["a", "b"], pairs=pairs)

    asyncio.run(scenario())


@pytest.mark.parametrize("value", [[None], [b"\xff"], [1 + 2j], [{"a": 1}], [["a"], ["b", "c"]]])
def test_inputs_that_no_tensor_holds(value: Any) -> None:
    """None was sent as the text "None"; others ended in Python's own errors."""

    async def scenario() -> None:
        async with asked() as (_, client):
            with pytest.raises(ValidationError, match="text_input"):
                await client.infer("e", {"text_input": value})

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [10, 600_000, 5_000_000])
def test_events_of_any_length(size: int) -> None:
    """One over 512 KiB, as the details of a long prompt are, was aiohttp's LineTooLong."""

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for text in ("é" * size, " and", " more"):
            event = {"text_output": text, "finish_reason": "stop" if text == " more" else ""}
            line = f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
            for at in range(0, len(line), 100_001):  # within characters, too
                await response.write(line[at : at + 100_001])
        return response

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"model_stats": [{"name": "g"}]})

    async def about(request: web.Request) -> web.Response:
        tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1]}
        outputs = [{**tensor, "name": name} for name in ("text_output", "control")]
        return web.json_response({"inputs": [tensor], "outputs": outputs})

    async def stream(request: web.Request) -> web.StreamResponse:
        parameters = (await request.json())["parameters"]
        if "control" not in parameters:
            return await events(request)
        response = web.StreamResponse()
        await response.prepare(request)
        answer = json.dumps({"control": json.dumps({"task": "generate"})})
        await response.write(f"data: {answer}\n\n".encode())
        return response

    async def scenario() -> None:
        app = web.Application()
        app.router.add_get("/v2/models/stats", models)
        app.router.add_get("/v2/models/g", about)
        app.router.add_post("/v2/models/g/generate_stream", stream)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with AsyncClient(address) as client:
            found = await client.generate("a")
        assert found.text == "é" * size + " and more" and found.finish_reason == "stop"
        await runner.cleanup()

    asyncio.run(scenario())

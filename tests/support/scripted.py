"""A gateway inside the test, before one or more scripted servers, and its client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import httpx
from fake_triton import FakeTriton, Refusal

from atoll_client.gateway.core.settings import GatewaySettings
from atoll_client.gateway.main import application

MODELS: dict[str, dict[str, Any]] = {
    "vectors": {"task": "embed", "dimensions": 4},
    "words": {"task": "generate", "max_total_tokens": 64},
    "order": {"task": "rerank"},
}

EMBED = ("/embed", {"inputs": "a"})
GENERATE = ("/generate", {"inputs": "a"})
CHAT = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})


@contextlib.asynccontextmanager
async def gateway(
    *addresses: str, resolve: Any = None, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway inside the test, and a client of it. resolve: in place of the system's resolver."""
    app = application(GatewaySettings(server=",".join(addresses), **settings))
    if resolve is not None:
        app.context.pool.resolve = resolve
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    outbox: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan"}, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    await outbox.get()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
    await inbox.put({"type": "lifespan.shutdown"})
    await life


Scenario = Callable[[FakeTriton, httpx.AsyncClient], Awaitable[None]]


def run(
    scenario: Scenario, models: Mapping[str, Mapping[str, Any]] = MODELS, **settings: Any
) -> None:
    """One server, one gateway, and what happens there."""

    async def whole() -> None:
        async with FakeTriton(models) as triton, gateway(triton.address, **settings) as http:
            await scenario(triton, http)

    asyncio.run(whole())


async def post(http: httpx.AsyncClient, request: tuple[str, Any]) -> httpx.Response:
    """One of the requests above."""
    path, body = request
    return await http.post(path, json=body)


CODE = grpc.StatusCode


def refuse(code: grpc.StatusCode, text: str, *metadata: tuple[str, str]) -> Any:
    async def embed(message: Any) -> Any:
        raise Refusal(code, text, metadata)

    return embed


def refuse_stream(code: grpc.StatusCode, text: str, *metadata: tuple[str, str]) -> Any:
    async def generate(message: Any) -> AsyncIterator[Any]:
        raise Refusal(code, text, metadata)
        yield

    return generate

"""The Triton servers behind the gateway: which are ready, what they serve, which get a request.

A request goes to the ready server with the fewest open requests that has the model. An unreachable
server gets no requests until it responds again. Only requests that a server never received, or
refused because the model is unloaded, are sent to the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import operator
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import orjson

from atoll_client import kserve
from atoll_client.discovery import Found
from atoll_client.errors import NotFound, NotReady, Unloaded, Unreached
from atoll_client.gateway.core.server import Server
from atoll_client.grpc_calls import Metadata
from atoll_client.kserve import Message
from atoll_client.types import ModelInfo

logger = logging.getLogger(__name__)
T = TypeVar("T")

_LARGE_BYTES = 100_000


class Pool:
    """All servers. Call ``start`` before use, and ``stop`` afterwards."""

    def __init__(self, addresses: Sequence[str], interval_s: float, timeout_s: float) -> None:
        self.servers: list[Server] = []
        self._addresses = addresses
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._task: asyncio.Task[None] | None = None
        self._seen: list[Mapping[str, Found]] = []
        self._models: Mapping[str, ModelInfo] = {}

    async def start(self) -> None:
        """Connects, checks every server, and goes on checking in the background.

        gRPC connections are bound to the event loop that is running when they are made.
        """
        self.servers = [Server(address) for address in self._addresses]
        await self.refresh()
        for server in self.servers:
            if not server.is_ready:
                logger.warning("server %s does not answer: asked again and again", server.address)
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Ends the checks and closes every connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(server.close() for server in self.servers))

    def lose(self, models: Iterable[str], sent_before: float) -> None:
        """Fails requests that were sent to these models before a time of ``time.monotonic()``."""
        for server in self.servers:
            for name in models:
                server.lose(name, sent_before)

    async def refresh(self) -> None:
        """Checks every server now."""
        await asyncio.gather(*(server.check() for server in self.servers))

    @property
    def is_ready(self) -> bool:
        """Whether any server responds and has a model."""
        return any(server.is_ready and server.has_models for server in self.servers)

    def models(self) -> Mapping[str, ModelInfo]:
        """Every model of the ready servers, by name. The same object until something changes."""
        ready = [server.models for server in self.servers if server.is_ready]
        if len(ready) != len(self._seen) or any(map(operator.is_not, ready, self._seen)):
            self._seen = ready
            self._models = {n: served.info for models in ready for n, served in models.items()}
        return self._models

    async def infer(self, message: Message, metadata: Metadata = ()) -> Message:
        """One response from an encoder."""
        return await first_response(
            self._candidates(message.model_name),
            lambda server: server.unary(message, self._timeout_s, metadata),
        )

    async def ask(self, model: str, question: Mapping[str, Any]) -> Any:
        """The answer to a question about a model itself."""
        server = next(iter(self._candidates(model)), None)
        if server is None:
            raise NotReady("no server is ready")
        found = server.models[model]
        shape = found.is_stream, found.is_batched
        answer = await server.ask(model, *shape, question, self._timeout_s)
        (raw,) = kserve.outputs(answer)["control"]
        # The tokens of a long text: parsed on a thread, so that other requests are not delayed.
        if len(raw) > _LARGE_BYTES:
            return await asyncio.to_thread(orjson.loads, raw)
        return orjson.loads(raw)

    def stream(self, message: Message, metadata: Metadata = ()) -> AsyncGenerator[Message, None]:
        """Responses of a generator."""
        return first_stream(
            self._candidates(message.model_name),
            lambda server: server.stream(message, self._timeout_s, metadata),
        )

    def _candidates(self, model: str) -> list[Server]:
        """Ready servers that have the model, the least busy first."""
        ready = [s for s in self.servers if s.is_ready]
        having = [s for s in ready if model in s.models]
        if ready and not having:
            raise NotFound(f"model {model!r} is not served")
        if having and all(model in s.away for s in having):
            raise NotReady(f"model {model!r} is loading, or has failed to load")
        having = [s for s in having if model not in s.away]
        return sorted(having, key=load) if len(having) > 1 else having

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self.refresh()


async def first_response(servers: Sequence[Server], call: Callable[[Server], Awaitable[T]]) -> T:
    """The response of the first server that takes the request.

    Raises:
        NotReady: none is reachable, or none has the model now. What the server raises.
    """
    refusal = NotReady("no server is ready")
    for server in servers:
        try:
            with counted(server):
                return await call(server)
        except Unreached:
            continue
        except Unloaded as error:
            refusal = error
    raise refusal


async def first_stream(
    servers: Sequence[Server], call: Callable[[Server], AsyncGenerator[T, None]]
) -> AsyncGenerator[T, None]:
    """The responses of the first server that takes the request. Raises as ``first_response``."""
    refusal = NotReady("no server is ready")
    for server in servers:
        has_begun = False
        try:
            with counted(server):
                async with contextlib.aclosing(call(server)) as responses:
                    async for response in responses:
                        has_begun = True
                        yield response
            return
        except (Unreached, Unloaded) as error:
            if has_begun:
                raise
            refusal = error if isinstance(error, Unloaded) else refusal
    raise refusal


class counted:
    """``with``: counts a request as one that the server holds."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __enter__(self) -> None:
        self._server.num_outstanding += 1

    def __exit__(self, *reason: object) -> None:
        self._server.num_outstanding -= 1


def load(server: Server) -> int:
    """By which servers are sorted, the least busy first."""
    return server.num_outstanding

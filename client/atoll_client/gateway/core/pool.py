"""The Triton servers behind the gateway: who is ready, what they serve, who gets a request.

A request goes to the ready server with the fewest in flight that has the model. A server that
cannot be reached is left out until it answers again; a request that it never took is tried on the
next one, and nothing else is ever retried. A server that is ending takes none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import operator
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any

import orjson

from atoll_client import kserve
from atoll_client.discovery import Found
from atoll_client.errors import NotFound, NotReady, Unloaded, Unreached
from atoll_client.gateway.core.server import Server
from atoll_client.grpc_calls import Metadata
from atoll_client.kserve import Message
from atoll_client.types import ModelInfo

logger = logging.getLogger(__name__)

_LARGE_BYTES = 100_000


class Pool:
    """All servers. ``start`` it before use, ``stop`` it after."""

    def __init__(self, addresses: Sequence[str], interval_s: float, timeout_s: float) -> None:
        self.servers: list[Server] = []
        self._addresses = addresses
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._task: asyncio.Task[None] | None = None
        self._seen: list[Mapping[str, Found]] = []
        self._models: Mapping[str, ModelInfo] = {}

    async def start(self) -> None:
        """Looks once, then goes on looking in the background.

        Connections belong to the event loop that runs when they are made: hence here.
        """
        self.servers = [Server(address) for address in self._addresses]
        await self.refresh()
        for server in self.servers:
            if not server.is_ready:
                logger.warning("server %s does not answer: asked again and again", server.address)
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Ends the watch and every connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(server.close() for server in self.servers))

    def lose(self, models: Iterable[str], sent_before: float) -> None:
        """Fails what was sent to these models before a moment of ``time.monotonic()``."""
        for server in self.servers:
            for name in models:
                server.lose(name, sent_before)

    async def refresh(self) -> None:
        """Looks at every server now."""
        await asyncio.gather(*(server.look() for server in self.servers))

    @property
    def is_ready(self) -> bool:
        """Whether any server answers and has a model."""
        return any(server.is_ready and server.has_models for server in self.servers)

    def models(self) -> Mapping[str, ModelInfo]:
        """Every model of every ready server, by name: the same object until something changes."""
        ready = [server.models for server in self.servers if server.is_ready]
        if len(ready) != len(self._seen) or any(map(operator.is_not, ready, self._seen)):
            self._seen = ready
            self._models = {n: served.info for models in ready for n, served in models.items()}
        return self._models

    async def infer(self, message: Message, metadata: Metadata = ()) -> Message:
        """One response from an encoder."""
        refusal = NotReady("no server is ready")
        for server in self._candidates(message.model_name):
            with counted(server):
                try:
                    return await server.unary(message, self._timeout_s, metadata)
                except Unreached:
                    continue
                except Unloaded as error:
                    refusal = error
        raise refusal

    async def ask(self, model: str, question: Mapping[str, Any]) -> Any:
        """A question about a model itself."""
        for server in self._candidates(model):
            found = server.models[model]
            shape = found.is_stream, found.is_batched
            answer = await server.ask(model, *shape, question, self._timeout_s)
            (raw,) = kserve.outputs(answer)["control"]
            # The tokens of a long text: other requests go on meanwhile.
            if len(raw) > _LARGE_BYTES:
                return await asyncio.to_thread(orjson.loads, raw)
            return orjson.loads(raw)
        raise NotReady("no server is ready")

    async def stream(
        self, message: Message, metadata: Metadata = ()
    ) -> AsyncGenerator[Message, None]:
        """Responses of a generator."""
        refusal = NotReady("no server is ready")
        for server in self._candidates(message.model_name):
            has_begun = False
            with counted(server):
                try:
                    responses = server.stream(message, self._timeout_s, metadata)
                    async with contextlib.aclosing(responses):
                        async for response in responses:
                            has_begun = True
                            yield response
                    return
                except (Unreached, Unloaded) as error:
                    if has_begun:
                        raise
                    if isinstance(error, Unloaded):
                        refusal = error
        raise refusal

    def _candidates(self, model: str) -> list[Server]:
        """Ready servers that have the model, the least busy first."""
        ready = [s for s in self.servers if s.is_ready]
        having = [s for s in ready if model in s.models]
        if ready and not having:
            raise NotFound(f"model {model!r} is not served")
        if having and all(model in s.away for s in having):
            raise NotReady(f"model {model!r} is loading, or has failed to load")
        having = [s for s in having if model not in s.away]
        return sorted(having, key=_load) if len(having) > 1 else having

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self.refresh()


class counted:
    """A request that a server holds."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __enter__(self) -> None:
        self._server.num_outstanding += 1

    def __exit__(self, *reason: object) -> None:
        self._server.num_outstanding -= 1


def _load(server: Server) -> int:
    return server.num_outstanding

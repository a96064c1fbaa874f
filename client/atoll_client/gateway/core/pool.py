"""The Triton servers behind the gateway: which are ready, what they serve, which get a request.

The addresses of names are looked up again and again: servers join when they are ready, and those
whose address has vanished get no new requests, and are left when the last one has ended. A request
goes to a ready server that has the model: to the one that may know its prompt (``affinity``), or
the least busy. An unreachable server gets no requests until it responds again.
"""

from __future__ import annotations

import asyncio
import logging
import operator
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from atoll_client import kserve
from atoll_client.discovery import Found
from atoll_client.errors import Asleep, NotFound, NotReady
from atoll_client.gateway.core.affinity import Affinity, Origin
from atoll_client.gateway.core.attempts import Attempts
from atoll_client.gateway.core.names import Name, Resolve, look_up
from atoll_client.gateway.core.pool_counters import PoolCounters
from atoll_client.gateway.core.server import Server
from atoll_client.gateway.core.settings import GatewaySettings
from atoll_client.gateway.core.told import Told
from atoll_client.grpc_calls import Metadata
from atoll_client.kserve import Message
from atoll_client.types import ModelInfo

logger = logging.getLogger(__name__)

_LARGE_BYTES = 100_000


class Pool:
    """All servers. Call ``start`` before use, and ``stop`` afterwards.

    servers: those that get requests. leaving: those that complete the ones they have. resolve: what
    addresses names have.
    """

    def __init__(
        self, settings: GatewaySettings, registry: CollectorRegistry, resolve: Resolve = look_up
    ) -> None:
        self.servers: list[Server] = []
        self.leaving: list[Server] = []
        self._settings, self.resolve = settings, resolve
        self._names = [Name(target) for target in settings.servers]
        self._tasks: set[asyncio.Task[None]] = set()
        counters = PoolCounters(registry, lambda: self.servers)
        self._counters = counters
        self.attempts = Attempts(settings.retry_budget, settings.request_timeout_s, counters)
        self.affinity = Affinity(settings.affinity, settings.affinity_max_load)
        self.told = Told()
        self._seen: list[Mapping[str, Found]] = []
        self._models: Mapping[str, ModelInfo] = {}

    async def start(self) -> None:
        """Connects, checks every server, and goes on checking in the background.

        gRPC connections are bound to the event loop that is running when they are made.
        """
        await self.look()
        await self.refresh()
        if not self.is_ready:
            # Nobody answers at a name's addresses of IPv4: those of IPv6 are tried now.
            await asyncio.gather(*(server.check() for server in await self.look()))
        for name in self._names:
            if not any(map(self._answers, name.targets(self._answers))):
                logger.warning("server %s does not answer: asked again and again", name.target)
        self._spawn(self._watch_names())
        for server in self.servers:
            self._spawn(self._watch(server, self._settings.health_interval_s))

    async def stop(self) -> None:
        """Ends the checks and closes every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(server.close() for server in (*self.servers, *self.leaving)))

    async def look(self) -> list[Server]:
        """Looks the names up now; new servers are returned, and have to be checked."""
        await asyncio.gather(*(name.look(self.resolve) for name in self._names))
        known = {server.address: server for server in (*self.servers, *self.leaving)}
        found = (target for name in self._names for target in name.targets(self._answers))
        wanted = dict.fromkeys(found)
        silence_s = self._settings.server_silence_s
        new = {
            address: Server(address, silence_s, self.told)
            for address in wanted
            if address not in known
        }
        known |= new
        self.servers = [known[address] for address in wanted]
        self.leaving = [server for name, server in known.items() if name not in wanted]
        for server in [one for one in self.leaving if one.is_idle]:
            self.leaving.remove(server)
            await server.close()
            logger.info("server %s has left", server.address)
        return list(new.values())

    def lose(self, models: Iterable[str], sent_before: float) -> None:
        """Fails requests that were sent to these models before a time of ``time.monotonic()``."""
        for server in (*self.servers, *self.leaving):
            for name in models:
                server.lose(name, sent_before)

    def renew(self, models: Iterable[str]) -> None:
        """Asks again what these models are, since they have come, gone or changed."""
        names = frozenset(models)
        for server in self.servers:
            server.stale |= names
        self._spawn(self.refresh())

    def check_awake(self, model: str | None) -> None:
        """Raises Asleep: the model has to be loaded first."""
        if model is not None and model in self.told.asleep:
            raise Asleep(self.told.asleep[model])

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
        timeout_s = self._settings.request_timeout_s
        return await self.attempts.response(
            message.model_name,
            self._candidates(message.model_name),
            lambda server: server.unary(message, timeout_s, metadata),
        )

    async def ask(self, model: str, question: Mapping[str, Any]) -> Any:
        """The answer to a question about a model itself."""
        timeout_s = self._settings.request_timeout_s

        async def call(server: Server) -> Message:
            found = server.models[model]
            return await server.ask(model, found.is_stream, found.is_batched, question, timeout_s)

        answer = await self.attempts.response("", self._candidates(model), call)
        (raw,) = kserve.outputs(answer)["control"]
        # The tokens of a long text: parsed on a thread, so that other requests are not delayed.
        if len(raw) > _LARGE_BYTES:
            return await asyncio.to_thread(orjson.loads, raw)
        return orjson.loads(raw)

    def stream(
        self, message: Message, metadata: Metadata = (), origin: Origin | None = None
    ) -> AsyncGenerator[Message, None]:
        """Responses of a generator. origin: decides which server is asked first."""
        timeout_s = self._settings.request_timeout_s
        return self.attempts.stream(
            message.model_name,
            self._candidates(message.model_name, origin),
            lambda server: server.stream(message, timeout_s, metadata),
        )

    def _candidates(self, model: str, origin: Origin | None = None) -> list[Server]:
        """Ready servers that have the model, in the order in which they are tried."""
        ready = [s for s in self.servers if s.is_ready]
        having = [s for s in ready if model in s.models]
        if ready and not having:
            raise NotFound(f"model {model!r} is not served")
        if having and all(model in s.away for s in having):
            raise NotReady(f"model {model!r} is loading, or has failed to load")
        having = [s for s in having if model not in s.away]
        return self.ordered(model, having, origin) if len(having) > 1 else having

    def ordered(self, model: str, servers: list[Server], origin: Origin | None) -> list[Server]:
        """Several servers in the order in which they are tried for a request."""
        working = [s for s in servers if not s.is_spared(model)] or servers
        found, outcome = self.affinity.order(self.affinity.key(model, origin), working)
        if origin is not None:
            self._counters.placed(outcome)
        # One request shows whether a server that has failed works again.
        probed = next(
            (s for s in servers if s not in working and s.circuits[model].is_probe()), None
        )
        return found if probed is None else [probed, *found]

    def _answers(self, address: str) -> bool:
        return any(one.address == address and one.is_ready for one in self.servers)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch_names(self) -> None:
        while True:
            await asyncio.sleep(self._settings.health_interval_s)
            for server in await self.look():
                logger.info("server %s joins", server.address)
                self._spawn(self._watch(server))

    async def _watch(self, server: Server, pause_s: float = 0.0) -> None:
        """Checks a server until it has left. One that hangs delays nobody else's checks."""
        await asyncio.sleep(pause_s)
        while server in self.servers or server in self.leaving:
            await server.check()
            await asyncio.sleep(self._settings.health_interval_s)

"""The Triton servers behind the gateway: who is ready, what they serve, who gets a request.

A request goes to the ready server with the fewest in flight that has the model. A server that
cannot be reached is left out until it answers again; a request that it never took is tried on the
next one, and nothing else is ever retried. A server that is ending takes none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import operator
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import orjson
from tritonclient.grpc import service_pb2 as pb

from atoll_client import messages
from atoll_client.calls import Calls, Metadata
from atoll_client.errors import AtollError, NotFound, NotReady, Unloaded, Unreached, from_grpc
from atoll_client.messages import Message
from atoll_client.types import ModelInfo

logger = logging.getLogger(__name__)

_SERVICE = "/inference.GRPCInferenceService/"
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 60_000),
)
_PROBE_S = 5.0
_QUESTIONS = (
    "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig",
    "ModelStatistics",
)  # fmt: skip
_LARGE_BYTES = 100_000


@dataclass(frozen=True)
class Served:
    """A model on one server."""

    info: ModelInfo
    is_batched: bool


class Server:
    """One server: its connection, how many requests it holds, and its models by name.

    away: names of models that it had and has not now, while it loads something or has failed to.
    loaded: names of all models that it has now, with those that are not Atoll's.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.num_outstanding = 0
        self.is_ready = False
        self.models: Mapping[str, Served] = {}
        self.away: frozenset[str] = frozenset()
        self.loaded: frozenset[str] = frozenset()
        self._others: frozenset[str] = frozenset()
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self.calls = Calls(self._channel)
        self._questions = {name: self._question(name) for name in _QUESTIONS}

    def _question(self, name: str) -> Any:
        return self._channel.unary_unary(
            _SERVICE + name,
            request_serializer=getattr(pb, f"{name}Request").SerializeToString,
            response_deserializer=getattr(pb, f"{name}Response").FromString,
        )

    async def inquire(self, name: str, message: Message, timeout_s: float = _PROBE_S) -> Message:
        """Asks about the server or a model: ``name`` is one of the protocol's methods.

        Raises:
            AtollError: of the class that the status means.
        """
        with self.noticed():
            try:
                return await self._questions[name](message, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                raise from_grpc(error.code(), error.details()) from error

    async def close(self) -> None:
        """Ends the connection; requests in flight fail."""
        await self.calls.close()
        await self._channel.close()

    async def stream(
        self, message: Message, timeout_s: float, metadata: Metadata = ()
    ) -> AsyncGenerator[Message, None]:
        """Responses of a decoupled model. Leaving the loop early cancels the work."""
        with self.noticed():
            responses = self.calls.responses(message, timeout_s, metadata)
            async with contextlib.aclosing(responses):
                async for response in responses:
                    yield response

    async def unary(self, message: Message, timeout_s: float, metadata: Metadata = ()) -> Message:
        """The response of a model that gives exactly one."""
        with self.noticed():
            return await self.calls.infer(message, timeout_s, metadata)

    async def look(self) -> None:
        """Finds out whether the server answers and which models it has.

        Triton says that it is not ready as long as any model is loading, and for good once one has
        failed to load, whatever the others do. So that is no reason to leave a server out.
        """
        try:
            answer = await self.inquire("ServerReady", pb.ServerReadyRequest())
            await self._find_models(is_settled=bool(answer.ready))
            was_ready, self.is_ready = self.is_ready, bool(answer.ready or self.has_models)
            if self.is_ready and not was_ready:
                logger.info("server %s is ready", self.address)
            await asyncio.gather(*map(self._look_after, self.calls.open_models()))
        except AtollError as error:
            if self.is_ready:
                logger.warning("server %s is not ready: %s", self.address, error)
            self.is_ready = False

    @property
    def has_models(self) -> bool:
        """Whether any model can be asked now."""
        return len(self.models) > len(self.away) or bool(self._others)

    async def _find_models(self, is_settled: bool) -> None:
        """is_settled: a model that is gone was unloaded, and does not come back by itself."""
        statistics = await self.inquire("ModelStatistics", pb.ModelStatisticsRequest())
        names = frozenset(one.name for one in statistics.model_stats)
        self.loaded, self._others = names, self._others & names
        found = {name: served for name, served in self.models.items() if name in names}
        for name in sorted(names - found.keys() - self._others):
            served = await self._ask(name)
            if served is not None:
                found[name] = served
        self.away = frozenset() if is_settled else frozenset(self.models.keys() - found.keys())
        self.models = {**found, **{name: self.models[name] for name in self.away}}

    async def _ask(self, name: str) -> Served | None:
        """None: not one of Atoll's models, or not up yet."""
        try:
            metadata = await self.inquire("ModelMetadata", pb.ModelMetadataRequest(name=name))
            if not any(output.name == "control" for output in metadata.outputs):
                self._others |= {name}
                return None
            shape = next(list(t.shape) for t in metadata.inputs if t.name == "text_input")
            is_batched = len(shape) > 1
            question = messages.control_request(name, is_batched, {"op": "info"})
            facts = messages.read_control(await self.ask(question, is_batched, 30.0))
        except AtollError as error:
            logger.warning("model %s on %s says nothing: %s", name, self.address, error)
            return None
        return Served(ModelInfo(name, str(facts.get("task", "")), facts), is_batched)

    async def _look_after(self, name: str) -> None:
        """Fails the requests of a model whose process has ended since they were sent.

        Triton never answers these, neither while the model is gone nor once it is loaded again.
        """
        served = self.models.get(name)
        if served is None:
            return
        question = messages.control_request(name, served.is_batched, {"op": "info"})
        asked_at = time.monotonic()
        try:
            facts = messages.read_control(await self.ask(question, served.is_batched, _PROBE_S))
            ended_before = asked_at - float(facts.get("uptime_s", math.inf))
        except AtollError as error:
            # Else it is busy, or is being unloaded and still answers what it has.
            if "is not healthy" not in str(error):
                return
            ended_before = asked_at
        reason = NotReady(f"the process of model {name!r} has ended; it is being loaded again")
        num_lost = self.calls.lose(name, ended_before, reason)
        if num_lost:
            logger.error("model %s on %s: %d requests are lost", name, self.address, num_lost)

    async def ask(self, question: Message, is_batched: bool, timeout_s: float) -> Message:
        """Any request with one response, to a model of either kind."""
        if is_batched:
            return await self.unary(question, timeout_s)
        async with contextlib.aclosing(self.stream(question, timeout_s)) as responses:
            async for response in responses:
                return response
        raise NotReady("the model gave no answer")

    @contextlib.contextmanager
    def noticed(self) -> Iterator[None]:
        """A server that is not reached gets no more requests until it answers again."""
        try:
            yield
        except Unreached:
            self.is_ready = False
            raise


class Pool:
    """All servers. ``start`` it before use, ``stop`` it after."""

    def __init__(self, addresses: Sequence[str], interval_s: float, timeout_s: float) -> None:
        self.servers: list[Server] = []
        self._addresses = addresses
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._task: asyncio.Task[None] | None = None
        self._seen: list[Mapping[str, Served]] = []
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
            is_batched = server.models[model].is_batched
            message = messages.control_request(model, is_batched, question)
            answer = await server.ask(message, is_batched, self._timeout_s)
            (raw,) = messages.outputs(answer)["control"]
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

"""One Triton server behind the gateway: its connection, its models and its open requests.

It checks the server and its models. ``pool`` chooses the server of a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as pb

from atoll_client import discovery, kserve
from atoll_client.discovery import Found
from atoll_client.errors import (
    AtollError,
    DeadlineExceeded,
    Lost,
    NotReady,
    Unreached,
    from_grpc,
)
from atoll_client.gateway.core.circuit import Circuit
from atoll_client.gateway.core.told import Told
from atoll_client.grpc_calls import Calls, Metadata
from atoll_client.grpc_channel import open_channel, unary
from atoll_client.kserve import Message

logger = logging.getLogger(__name__)

_PROBE_S, _INFO_S = 5.0, 30.0
# A question is answered at once, however busy the model is, unless the machine is.
_MAX_SILENT = 2
# Processes of idle models are asked this often whether they still run.
_FULL_CHECK_S = 10.0
# How long a model whose process has ended counts as loading; after that, as unknown.
_RETURN_S = 120.0
# By default, a server that was away for long would be tried only every two minutes.
_CHANNEL = (("grpc.keepalive_time_ms", 60_000), ("grpc.max_reconnect_backoff_ms", 5_000))
_QUESTIONS = (
    "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig",
    "ModelStatistics",
)  # fmt: skip


class Server:
    """One server.

    Attributes:
        num_outstanding: open requests. models: Atoll's models by name.
        away: names of models that are missing now and may come back.
        loaded: names of all models that it has now, including those that are not Atoll's.
        returning: names of models of any kind whose process has ended and that are loading again.
        stale: names of models that may have become others.
        dead: names of Atoll's models whose process has ended, although Triton calls them ready.
        silent: how often in a row one of Atoll's models has not answered a question in time.
        circuits: of models that have failed since their last answer.
        current: by model, what it has told of itself last.
    """

    def __init__(self, address: str, silence_s: float = math.inf, told: Told | None = None) -> None:
        """silence_s: after so many seconds without any answer, open requests are given up."""
        self.address = address
        self.circuits: dict[str, Circuit] = {}
        self.current: dict[str, Mapping[str, Any]] = {}
        self._silence_s, self._heard_at = silence_s, time.monotonic()
        self.num_outstanding, self.is_ready = 0, False
        self.models: Mapping[str, Found] = {}
        self.silent: dict[str, int] = {}
        self._told, self._checking = told or Told(), asyncio.Lock()
        none = frozenset[str]()
        self.away, self.loaded, self.returning, self._others = none, none, none, none
        self.dead, self.stale = none, none
        self._expected: dict[str, float] = {}
        self._next_full_check = time.monotonic() + _FULL_CHECK_S
        self._channel = open_channel(address, *_CHANNEL)
        self.calls = Calls(self._channel)
        self._questions = {name: unary(self._channel, name) for name in _QUESTIONS}

    async def inquire(self, name: str, message: Message, timeout_s: float = _PROBE_S) -> Message:
        """Calls a method of the protocol about the server or a model.

        Raises:
            AtollError: of the class that corresponds to the status.
        """
        with self.noticed():
            try:
                return await self._questions[name](message, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                raise from_grpc(error.code(), error.details()) from error

    async def close(self) -> None:
        """Closes the connection; open requests fail."""
        await self.calls.close()
        await self._channel.close()

    async def stream(
        self, message: Message, timeout_s: float, metadata: Metadata = ()
    ) -> AsyncGenerator[Message, None]:
        """Responses of a decoupled model. Closing the generator cancels the request."""
        with self.noticed():
            responses = self.calls.responses(message, timeout_s, metadata)
            async with contextlib.aclosing(responses):
                async for response in responses:
                    yield response

    async def unary(
        self, message: Message, timeout_s: float, metadata: Metadata = (), can_cancel: bool = True
    ) -> Message:
        """The response of a model that sends exactly one."""
        with self.noticed():
            return await self.calls.infer(message, timeout_s, metadata, can_cancel=can_cancel)

    async def check(self) -> None:
        """Checks whether the server responds and which models it has.

        Triton is not ready while any model is loading, and never again after one has failed to
        load. So a server that is not ready is used for the models that it has.
        """
        async with self._checking:  # two at once might end with older news
            await self._check()

    async def _check(self) -> None:
        try:
            timeout_s = min(_PROBE_S, self._silence_s)
            answer = await self.inquire("ServerReady", pb.ServerReadyRequest(), timeout_s)
            self._heard_at = time.monotonic()
            await self._find_models(is_settled=bool(answer.ready))
            was_ready, self.is_ready = self.is_ready, bool(answer.ready or self.has_models)
            if self.is_ready and not was_ready:
                logger.info("server %s is ready", self.address)
            await asyncio.gather(*map(self._check_process, self._names_to_check()))
        except AtollError as error:
            if self.is_ready:
                logger.warning("server %s is not ready: %s", self.address, error)
            self.is_ready = False
            silent_s = time.monotonic() - self._heard_at
            if isinstance(error, DeadlineExceeded) and silent_s > self._silence_s:
                self._give_up(silent_s)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open, so that the connection may be closed."""
        return not self.num_outstanding and self.calls.is_idle

    def circuit(self, model: str) -> Circuit:
        """The circuit of a model; a new one if it has not failed."""
        return self.circuits.setdefault(model, Circuit())

    def is_spared(self, model: str) -> bool:
        """Whether the model gets no requests now, if others have it."""
        circuit = self.circuits.get(model)
        return circuit is not None and circuit.state != Circuit.CLOSED

    @property
    def unusable(self) -> frozenset[str]:
        """Models that Triton calls ready and that do not answer, and conversations with them."""
        found = self.dead | {k for k, count in self.silent.items() if count >= _MAX_SILENT}
        return found | {self.models[name].session or "" for name in found & self.models.keys()}

    @property
    def has_models(self) -> bool:
        """Whether any model accepts requests now."""
        away = self.away - self._told.asleep.keys()
        return bool((self.models.keys() - away | self._others) - self.unusable)

    async def is_answering(self, model: str) -> bool:
        """Whether a model answers now; true for models that are not Atoll's, and pipelines."""
        asked = [name for name, found in self.models.items() if model in (name, found.session)]
        await asyncio.gather(*map(self._check_process, asked))
        return model not in self.unusable

    async def _find_models(self, is_settled: bool) -> None:
        """is_settled: nothing is loading; models that are missing have been unloaded."""
        statistics = await self.inquire("ModelStatistics", pb.ModelStatisticsRequest())
        names = frozenset(one.name for one in statistics.model_stats)
        self.loaded, self._others = names, self._others & names
        found = {name: served for name, served in self.models.items() if name in names}
        stale, self.stale = self.stale, frozenset()
        self._others -= stale
        for name in sorted((names - found.keys() - self._others) | (stale & names)):
            served = await self._ask(name)
            if served is not None:
                found[name] = served
        now = time.monotonic()
        self._expected = {k: v for k, v in self._expected.items() if v > now}
        # A process that ended as its model was unloaded looks like one that has crashed.
        over = self._told.unloaded - self._told.asleep.keys()
        self.returning = frozenset(self._expected.keys() - names - over)
        gone = frozenset(self.models.keys() - found.keys())
        expected = {*self.returning, *self._told.asleep}
        self.away = (gone & expected if is_settled else gone) - over
        self.models = {**found, **{name: self.models[name] for name in self.away}}
        self.dead &= names
        self.silent = {k: count for k, count in self.silent.items() if k in names}

    def _names_to_check(self) -> frozenset[str]:
        """Models with open requests and dead ones; from time to time, idle ones too."""
        names = frozenset(self.calls.open_models()) | self.dead | self.silent.keys()
        if time.monotonic() >= self._next_full_check:
            self._next_full_check = time.monotonic() + _FULL_CHECK_S
            names |= self.models.keys() - self.away
        return names

    async def _ask(self, name: str) -> Found | None:
        """None: not one of Atoll's models, or it does not respond yet."""
        try:
            metadata = await self.inquire("ModelMetadata", pb.ModelMetadataRequest(name=name))
            found = await discovery.describe(name, metadata, self._control, self.loaded)
        except AtollError as error:
            logger.warning("model %s on %s says nothing: %s", name, self.address, error)
            return None
        if found is None:
            self._others |= {name}
        return found

    async def _control(
        self, name: str, is_stream: bool, is_batched: bool, question: Mapping[str, Any]
    ) -> Any:
        answer = await self.ask(name, is_stream, is_batched, question, _INFO_S)
        return kserve.read_control(answer)

    async def _check_process(self, name: str) -> None:
        """Fails the requests of a model whose process has ended since they were sent.

        Triton never responds to these, even when the model is loaded again.
        """
        served = self.models.get(name)
        if served is None:
            return
        shape = served.is_stream, served.is_batched
        asked_at = time.monotonic()
        try:
            answer = await self.ask(name, *shape, {"op": "info"}, _PROBE_S)
            facts = self.current[name] = kserve.read_control(answer)
            ended_before = asked_at - float(facts.get("uptime_s", math.inf))
            self.dead -= {name}
            self.silent.pop(name, None)
        except AtollError as error:
            if isinstance(error, DeadlineExceeded):
                self.silent[name] = self.silent.get(name, 0) + 1
            # Otherwise, it is busy, or being unloaded while it completes its requests.
            if "is not healthy" in str(error):
                self.dead |= {name}
                self.lose(name, asked_at)
            return
        self._lose_sent(name, ended_before)

    def lose(self, name: str, sent_before: float) -> None:
        """The process of a model has ended: requests sent before fail, and the model comes back."""
        self._expected[name] = time.monotonic() + _RETURN_S
        self._lose_sent(name, sent_before)

    def _lose_sent(self, name: str, sent_before: float) -> None:
        reason = NotReady(f"the process of model {name!r} has ended; it is being loaded again")
        num_lost = self.calls.lose(name, sent_before, reason)
        if num_lost:
            logger.error("model %s on %s: %d requests are lost", name, self.address, num_lost)

    def _give_up(self, silent_s: float) -> None:
        """Fails all open requests of a server that hangs, which keeps its connections open."""
        reason = Lost(f"the server {self.address} has not answered for {silent_s:.0f} s")
        for name in self.calls.open_models():
            num_lost = self.calls.lose(name, math.inf, reason)
            # Afterwards, only the questions that cancel these requests are open.
            if self.num_outstanding:
                logger.error("model %s: %d requests are given up: %s", name, num_lost, reason)

    async def ask(
        self,
        name: str,
        is_stream: bool,
        is_batched: bool,
        question: Mapping[str, Any],
        timeout_s: float,
    ) -> Message:
        """The response to a question about a model itself."""
        message = kserve.control_request(name, is_batched, question)
        if not is_stream:
            return await self.unary(message, timeout_s)
        async with contextlib.aclosing(self.stream(message, timeout_s)) as responses:
            async for response in responses:
                return response
        raise NotReady("the model gave no answer")

    @contextlib.contextmanager
    def noticed(self) -> Iterator[None]:
        """``with``: an unreachable server is not ready until it responds again."""
        try:
            yield
        except (Unreached, Lost):
            self.is_ready = False
            raise

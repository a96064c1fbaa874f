"""Sends the requests of KServe's clients to the servers, for models of any kind.

Atoll's models cancel requests by their ids, which have to be unique there. So requests are sent
with ids of the gateway, and responses and errors get the client's own id back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Iterator
from typing import NamedTuple

from tritonclient.grpc import service_pb2 as pb

from atoll_client import kserve
from atoll_client.errors import AtollError, NotFound, NotReady
from atoll_client.gateway.core.affinity import Origin, load, prompt_of
from atoll_client.gateway.core.pool import Pool
from atoll_client.gateway.core.server import Server
from atoll_client.gateway.kserve.classification import classified, take_counts
from atoll_client.gateway.kserve.descriptions import merged, server_metadata
from atoll_client.gateway.kserve.signature import Signature
from atoll_client.grpc_calls import Metadata
from atoll_client.kserve import Message

_CONTROL = "control"


class Upstream:
    """The servers of ``pool``, for models of any kind. kept_s: how long metadata is cached."""

    def __init__(self, pool: Pool, kept_s: float) -> None:
        self._pool, self._kept_s = pool, kept_s
        self._signatures: dict[tuple[str, str, str], tuple[float, Signature]] = {}
        # (model, a client's id) -> the ids with which its requests were sent to the model.
        self._ids: dict[tuple[str, str], list[str]] = {}

    def servers(self, model: str, sequence: str = "", origin: Origin | None = None) -> list[Server]:
        """Ready servers with the model, in the order in which they are tried.

        Raises:
            NotReady: no server is ready, or the model is loading, or asleep. NotFound: no server
                has it.
        """
        having = self._having(model)
        if len(having) == 1:
            return having
        if sequence:
            return self._pool.affinity.pinned(sequence, having)
        return self._pool.ordered(model, having, origin)

    def _having(self, model: str) -> list[Server]:
        """Ready servers with the model, in no order. Raises as ``servers``."""
        self._pool.check_awake(model)
        ready = [server for server in self._pool.servers if server.is_ready]
        if not ready:
            raise NotReady("no server is ready")
        having = [server for server in ready if model in server.loaded]
        if not having and any(model in server.away | server.returning for server in ready):
            raise NotReady(f"model {model!r} is loading, or has failed to load")
        if not having:
            raise NotFound(f"Request for unknown model: '{model}' is not found")
        return having

    async def inquire(self, name: str, model: str, version: str) -> Message:
        """Metadata, config, statistics or readiness of a model, from one server.

        Raises:
            AtollError: as ``servers`` and ``Attempts.response``.
        """
        message = getattr(pb, f"{name}Request")(name=model, version=version)
        servers = sorted(self._having(model), key=load)
        return await self._pool.attempts.response(
            "", servers, lambda server: server.inquire(name, message)
        )

    async def server_metadata(self) -> Message:
        """A ready server's metadata, with the extensions that the gateway offers."""
        ready = [server for server in self._pool.servers if server.is_ready]
        if not ready:
            raise NotReady("no server is ready")
        return server_metadata(await ready[0].inquire("ServerMetadata", pb.ServerMetadataRequest()))

    async def is_model_ready(self, model: str, version: str) -> bool:
        """Whether a server has the model, says that it is ready, and the model answers."""
        with contextlib.suppress(NotFound, NotReady):
            if (await self.inquire("ModelReady", model, version)).ready:
                having = self._having(model)
                return any(await asyncio.gather(*(one.is_answering(model) for one in having)))
        return False

    async def statistics(self, model: str, version: str) -> Message:
        """Statistics of a model, or of all, over all servers that have it."""
        servers = self.servers(model) if model else [s for s in self._pool.servers if s.is_ready]
        if not servers:
            raise NotReady("no server is ready")
        message = pb.ModelStatisticsRequest(name=model, version=version)
        answers = [server.inquire("ModelStatistics", message) for server in servers]
        return merged(await asyncio.gather(*answers))

    async def signature(self, model: str, version: str) -> Signature:
        """The model's declared inputs and outputs.

        Raises:
            AtollError: as ``inquire``.
        """
        having = self._having(model)
        server = next((one for one in having if not one.is_spared(model)), having[0])
        key = (server.address, model, version)
        kept = self._signatures.get(key)
        now = time.monotonic()
        if kept is not None and now - kept[0] < self._kept_s:
            return kept[1]
        metadata, config = await asyncio.gather(
            server.inquire("ModelMetadata", pb.ModelMetadataRequest(name=model, version=version)),
            server.inquire("ModelConfig", pb.ModelConfigRequest(name=model, version=version)),
        )
        found = Signature.of(metadata, config.config, is_ours=model in server.models)
        # Old entries are dropped, so that models that are gone leave nothing behind.
        self._signatures = {k: v for k, v in self._signatures.items() if now - v[0] < 60}
        self._signatures[key] = (now, found)
        return found

    async def infer(
        self,
        signature: Signature,
        message: Message,
        timeout_s: float,
        metadata: Metadata,
        session: str = "",
    ) -> Message:
        """The response of a model that sends exactly one. ``message`` is changed."""
        rest = (message, timeout_s, metadata, signature.is_ours)
        with self._known(signature, message) as asked:
            try:
                servers, is_stateless = self._placed(signature, message, session)
                response = await self._pool.attempts.response(
                    signature.model, servers, lambda server: server.unary(*rest),
                    is_stateless=is_stateless,
                )  # fmt: skip
                return asked.restored(response)
            except AtollError as error:
                error.args = (asked.reworded(str(error)),)
                raise

    async def exchange(
        self,
        signature: Signature,
        message: Message,
        timeout_s: float,
        metadata: Metadata,
        session: str = "",
    ) -> AsyncGenerator[Message, None]:
        """The ModelStreamInferResponses of a decoupled model, including errors.

        Closing the generator cancels the request. ``message`` is changed.
        """

        async def call(server: Server) -> AsyncGenerator[Message, None]:
            responses = server.calls.exchange(
                message, timeout_s, metadata, can_cancel=signature.is_ours
            )
            with server.noticed():
                async with contextlib.aclosing(responses):
                    async for response in responses:
                        yield response

        with self._known(signature, message) as asked:
            servers, is_stateless = self._placed(signature, message, session)
            found = self._pool.attempts.stream(
                signature.model, servers, call, is_stateless=is_stateless
            )
            async with contextlib.aclosing(found) as responses:
                async for response in responses:
                    yield asked.restored_part(response)

    def _placed(
        self, signature: Signature, message: Message, session: str
    ) -> tuple[list[Server], bool]:
        """The servers for a request, and whether nothing of it stays at one of them."""
        sequence = _sequence(message)
        is_generation = signature.is_ours and signature.is_decoupled
        origin = Origin(session, lambda: prompt_of(message)) if is_generation else None
        servers = self.servers(signature.model, sequence, origin)
        return servers, signature.is_ours and not sequence

    @contextlib.contextmanager
    def _known(self, signature: Signature, message: Message) -> Iterator[_Asked]:
        """Converts the message to what is sent. Until the block ends, ``cancel`` finds its id."""
        client_id = message.id
        counts = take_counts(message)
        if not signature.is_ours:
            yield _Asked(client_id, client_id, counts, signature.is_batched)
            return
        message.id = kserve.unique(client_id)
        self._translate(message)
        known = self._ids.setdefault((signature.model, client_id), [])
        known.append(message.id)
        try:
            yield _Asked(client_id, message.id, counts, signature.is_batched)
        finally:
            known.remove(message.id)
            if not known:
                self._ids.pop((signature.model, client_id), None)

    def _translate(self, message: Message) -> None:
        """In a question to cancel a request, replaces the client's id with the sent one."""
        if _CONTROL not in message.parameters:
            return
        with contextlib.suppress(ValueError, AttributeError, LookupError, TypeError):
            question = json.loads(message.parameters[_CONTROL].string_param)
            if question.get("op") == "cancel":
                known = self._ids[message.model_name, question["request_id"]]
                question["request_id"] = known[0]
                message.parameters[_CONTROL].string_param = json.dumps(question)


def _sequence(message: Message) -> str:
    """The key of the request's sequence; empty if it has none."""
    if "sequence_id" not in message.parameters:
        return ""
    value = message.parameters["sequence_id"]
    found = value.string_param or value.int64_param
    return f"{message.model_name} {found}" if found else ""


class _Asked(NamedTuple):
    """A request, where it differs from what is sent. counts: requested classes by output."""

    client_id: str
    sent_id: str
    counts: dict[str, int]
    is_batched: bool

    def restored(self, response: Message) -> Message:
        """A response with the client's id and its requested classes."""
        response.id = self.client_id
        return classified(response, self.counts, self.is_batched)

    def reworded(self, error: str) -> str:
        """An error with the client's id instead of the one that was sent."""
        if self.sent_id == self.client_id:
            return error
        # Triton's name of a missing id.
        return error.replace(self.sent_id, self.client_id or "<id_unknown>")

    def restored_part(self, response: Message) -> Message:
        """A stream's response, which may be an error, restored."""
        if response.error_message:
            response.error_message = self.reworded(response.error_message)
            response.infer_response.id = self.client_id
        else:
            self.restored(response.infer_response)
        return response

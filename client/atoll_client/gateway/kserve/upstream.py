"""Requests of KServe's clients on their way to the servers: any model, whoever wrote it.

A model of Atoll's is told to cancel a request by its id, which therefore has to be unlike all
others there: a client's own id is put back into what the client sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import zlib
from collections.abc import AsyncGenerator, Iterator
from typing import NamedTuple

from tritonclient.grpc import service_pb2 as pb

from atoll_client import kserve
from atoll_client.errors import AtollError, NotFound, NotReady, Unloaded, Unreached
from atoll_client.gateway.core.pool import Pool, counted
from atoll_client.gateway.core.server import Server
from atoll_client.gateway.kserve.classification import classified, take_counts
from atoll_client.gateway.kserve.descriptions import merged, server_metadata
from atoll_client.gateway.kserve.signature import Signature
from atoll_client.grpc_calls import Metadata
from atoll_client.kserve import Message

_CONTROL = "control"


class Upstream:
    """The servers of ``pool``, for requests whose models need not be Atoll's.

    kept_s: how long a model's metadata are taken for true.
    """

    def __init__(self, pool: Pool, timeout_s: float, kept_s: float) -> None:
        self._pool, self._timeout_s, self._kept_s = pool, timeout_s, kept_s
        self._signatures: dict[tuple[str, str, str], tuple[float, Signature]] = {}
        # (model, a client's id) -> ids under which its requests are known to the model.
        self._ids: dict[tuple[str, str], list[str]] = {}

    def servers(self, model: str, sequence: str = "") -> list[Server]:
        """Ready servers that have the model, the least busy first; for a sequence always the same.

        Raises:
            NotReady: no server is ready, or the model is loading. NotFound: no server has it.
        """
        ready = [server for server in self._pool.servers if server.is_ready]
        if not ready:
            raise NotReady("no server is ready")
        having = [server for server in ready if model in server.loaded]
        if not having and any(model in server.away | server.returning for server in ready):
            raise NotReady(f"model {model!r} is loading, or has failed to load")
        if not having:
            raise NotFound(f"Request for unknown model: '{model}' is not found")
        if sequence:
            return sorted(having, key=lambda s: zlib.crc32(f"{s.address} {sequence}".encode()))
        return sorted(having, key=lambda s: s.num_outstanding)

    async def inquire(self, name: str, model: str, version: str) -> Message:
        """Metadata, config, statistics or readiness of a model, from one server.

        Raises:
            AtollError: as ``servers``, or what the server says.
        """
        message = getattr(pb, f"{name}Request")(name=model, version=version)
        refusal: Exception = NotReady("no server is ready")
        for server in self.servers(model):
            try:
                return await server.inquire(name, message)
            except (Unreached, Unloaded) as error:
                refusal = error
        raise refusal

    async def server_metadata(self) -> Message:
        """A ready server's own, as far as the gateway carries it."""
        ready = [server for server in self._pool.servers if server.is_ready]
        if not ready:
            raise NotReady("no server is ready")
        return server_metadata(await ready[0].inquire("ServerMetadata", pb.ServerMetadataRequest()))

    async def is_model_ready(self, model: str, version: str) -> bool:
        """Whether any server says so; no server that knows the model is a no."""
        with contextlib.suppress(NotFound, NotReady):
            return bool((await self.inquire("ModelReady", model, version)).ready)
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
        """What the model declares.

        Raises:
            AtollError: as ``inquire``.
        """
        server = self.servers(model)[0]
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
        # Only names of models that exist get here; old ones go, so that reloads leave nothing.
        self._signatures = {k: v for k, v in self._signatures.items() if now - v[0] < 60}
        self._signatures[key] = (now, found)
        return found

    async def infer(
        self, signature: Signature, message: Message, timeout_s: float, metadata: Metadata
    ) -> Message:
        """The response of a model that gives exactly one. ``message`` is changed."""
        refusal: Exception = NotReady("no server is ready")
        deadline_s = min(timeout_s, self._timeout_s)
        with self._known(signature, message) as asked:
            for server in self.servers(signature.model, _sequence(message)):
                try:
                    with counted(server), server.noticed():
                        response = await server.calls.infer(
                            message, deadline_s, metadata, can_cancel=signature.is_ours
                        )
                    return asked.restored(response)
                except (Unreached, Unloaded) as error:
                    refusal = error
                except AtollError as error:
                    error.args = (asked.told(str(error)),)
                    raise
        raise refusal

    async def exchange(
        self, signature: Signature, message: Message, timeout_s: float, metadata: Metadata
    ) -> AsyncGenerator[Message, None]:
        """ModelStreamInferResponses of a decoupled model, errors too; leaving cancels the work.

        ``message`` is changed.
        """
        refusal: Exception = NotReady("no server is ready")
        deadline_s = min(timeout_s, self._timeout_s)
        with self._known(signature, message) as asked:
            for server in self.servers(signature.model, _sequence(message)):
                has_begun = False
                responses = server.calls.exchange(
                    message, deadline_s, metadata, can_cancel=signature.is_ours
                )
                try:
                    with counted(server), server.noticed():
                        async with contextlib.aclosing(responses):
                            async for response in responses:
                                has_begun = True
                                yield asked.restored_part(response)
                    return
                except (Unreached, Unloaded) as error:
                    if has_begun:
                        raise
                    refusal = error
        raise refusal

    @contextlib.contextmanager
    def _known(self, signature: Signature, message: Message) -> Iterator[_Asked]:
        """Makes the message what is sent; while it is answered, its id at the model is known."""
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
        """Makes a question to cancel a request by its client's id one by the id that it has."""
        if _CONTROL not in message.parameters:
            return
        with contextlib.suppress(ValueError, AttributeError, LookupError, TypeError):
            question = json.loads(message.parameters[_CONTROL].string_param)
            if question.get("op") == "cancel":
                known = self._ids[message.model_name, question["request_id"]]
                question["request_id"] = known[0]
                message.parameters[_CONTROL].string_param = json.dumps(question)


def _sequence(message: Message) -> str:
    """What keeps the requests of a sequence together; nothing for others."""
    if "sequence_id" not in message.parameters:
        return ""
    value = message.parameters["sequence_id"]
    found = value.string_param or value.int64_param
    return f"{message.model_name} {found}" if found else ""


class _Asked(NamedTuple):
    """What a client asked for, where it differs from what is sent. counts: classes by output."""

    client_id: str
    sent_id: str
    counts: dict[str, int]
    is_batched: bool

    def restored(self, response: Message) -> Message:
        """A response as the client's own."""
        response.id = self.client_id
        return classified(response, self.counts, self.is_batched)

    def told(self, error: str) -> str:
        """The server's words to the client, whose id they may hold."""
        if self.sent_id == self.client_id:
            return error
        # The server's own words for a request without an id.
        return error.replace(self.sent_id, self.client_id or "<id_unknown>")

    def restored_part(self, response: Message) -> Message:
        """The same of a stream's response, which may be an error."""
        if response.error_message:
            response.error_message = self.told(response.error_message)
            response.infer_response.id = self.client_id
        else:
            self.restored(response.infer_response)
        return response

"""``tei.v1`` over gRPC: Text Embeddings Inference's services, with health and reflection.

Each message has one text. Streams respond in order, with a limited number of messages in progress.
The model is the default of the task, or the one that the call's metadata names as ``model``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from atoll_client import tasks
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.encoders import check_batch
from atoll_client.gateway.core.grpc_calls import answered, read_message
from atoll_client.gateway.core.web import Request
from atoll_client.gateway.kserve.grpc_server import InferenceService
from atoll_client.gateway.tei import grpc_methods as rpc_methods
from atoll_client.gateway.tei import grpc_schema

# (a request, the context, the call's message) -> the response.
_SINGLE, _BATCH = {"method": "single"}, {"method": "batch"}
Method = Callable[[Request, Context, Any], Awaitable[Any]]
Read = Callable[[bytes], Any]


class Services:
    """``async with``: the gRPC server of a gateway, in the gateway's event loop."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._limit = context.settings.grpc_max_parallel_stream_requests
        self._largest = max(context.settings.payload_limit, context.settings.tensor_payload_limit)
        self._schema = grpc_schema.tei()
        self._methods = rpc_methods.methods(self._schema)
        self._server: Any = None
        self._closing: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Services:
        """Starts the server.

        Raises:
            RuntimeError: the port is taken.
        """
        settings = self._context.settings
        self._server = grpc.aio.server(
            options=(("grpc.max_receive_message_length", self._largest), ("grpc.so_reuseport", 0)),
        )  # fmt: skip
        self._server.add_generic_rpc_handlers(tuple(self._handlers()))
        try:
            self._server.add_insecure_port(f"{settings.hostname}:{settings.grpc_port}")
        except RuntimeError as error:
            port = settings.grpc_port
            raise RuntimeError(f"grpc_port {port} cannot be listened on: {error}") from None
        await self._server.start()
        return self

    def close(self, grace_s: float) -> None:
        """Accepts no more calls; open ones have ``grace_s`` seconds to end."""
        self._closing = asyncio.ensure_future(self._server.stop(grace_s))

    async def __aexit__(self, *reason: object) -> None:
        """Waits for open calls, or cancels them if ``close`` was not called."""
        if self._closing is None:
            self.close(0.0)
        assert self._closing is not None
        await self._closing

    def _handlers(self) -> list[Any]:
        found = []
        for service, methods in self._schema.services.items():
            table = {name: self._handler(service, name, types) for name, types in methods.items()}
            found.append(grpc.method_handlers_generic_handler(f"tei.v1.{service}", table))
        health = grpc_schema.health()

        async def check(raw: bytes, call: Any) -> Any:
            await _read(health["HealthCheckRequest"], raw, call)
            is_ready = self._context.pool.is_ready
            return health["HealthCheckResponse"](status="SERVING" if is_ready else "NOT_SERVING")

        handler = grpc.unary_unary_rpc_method_handler(
            check, None, health["HealthCheckResponse"].SerializeToString
        )
        table = {"Check": handler}
        found.append(grpc.method_handlers_generic_handler("grpc.health.v1.Health", table))
        found.append(InferenceService(self._context).handler())
        for package in ("grpc.reflection.v1", "grpc.reflection.v1alpha"):
            found.append(_reflection(package, [self._schema, health]))
        return found

    def _handler(self, service: str, name: str, types: tuple[str, str]) -> Any:
        kinds = [self._schema[text.split()[-1]] for text in types]
        read = partial(read_message, kinds[0], self._context.settings.payload_limit)
        # Messages are parsed inside the call, so that errors are counted.
        coders = (None, kinds[1].SerializeToString)
        path = f"/tei.v1.{service}/{name}"
        if name == "RerankStream":
            return grpc.stream_unary_rpc_method_handler(self._rerank_stream(path, read), *coders)
        method = self._methods[name.removesuffix("Stream")]
        if name.endswith("Stream"):
            return grpc.stream_stream_rpc_method_handler(self._stream(path, method, read), *coders)
        return grpc.unary_unary_rpc_method_handler(self._unary(path, method, read), *coders)

    def _unary(self, path: str, method: Method, read: Read) -> Any:
        async def answer(raw: bytes, call: Any) -> Any:
            async with answered(self._context, path, call, labels=_SINGLE) as request:
                return await method(request, self._context, read(raw))

        return answer

    def _stream(self, path: str, method: Method, read: Read) -> Any:
        async def answer(messages: AsyncIterator[bytes], call: Any) -> AsyncIterator[Any]:
            async with answered(self._context, path, call, labels=_BATCH) as request:
                found: Any = _ordered(
                    (read(raw) async for raw in messages),
                    # Each message is a request of its own.
                    lambda message: method(request.part(), self._context, message),
                    self._limit,
                )
                async with contextlib.aclosing(found):
                    async for response in found:
                        yield response

        return answer

    def _rerank_stream(self, path: str, read: Read) -> Any:
        async def answer(messages: AsyncIterator[bytes], call: Any) -> Any:
            async with answered(self._context, path, call, labels=_BATCH) as request:
                model = self._context.find(request, None, tasks.RANKING_TASKS)
                rows: list[Any] = []
                async for raw in messages:
                    rows.append(read(raw))
                    check_batch(request, self._context, len(rows), model)
                return await rpc_methods.rerank_rows(self._schema, request, self._context, rows)

        return answer


async def _ordered(
    messages: AsyncIterator[Any], method: Callable[[Any], Awaitable[Any]], limit: int
) -> AsyncIterator[Any]:
    """Responses in the order of the messages, with at most ``limit`` in progress."""
    queue: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
    free = asyncio.Semaphore(limit)
    tasks: set[asyncio.Task[Any]] = set()

    async def read() -> None:
        try:
            async for message in messages:
                await free.acquire()
                task = asyncio.ensure_future(method(message))
                tasks.add(task)
                queue.put_nowait(task)
        finally:
            queue.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await queue.get()) is not None:
            yield await task
            tasks.discard(task)
            free.release()
        # Raises if a message could not be read.
        await reader
    finally:
        for task in (reader, *tasks):
            task.cancel()
        await asyncio.gather(reader, *tasks, return_exceptions=True)


async def _read(kind: Any, raw: bytes, call: Any) -> Any:
    """A message of a call that is not counted; ends the call if it cannot be parsed."""
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        said = f"the message cannot be read: {error}"
        await call.abort(grpc.StatusCode.INVALID_ARGUMENT, said)


def _reflection(package: str, schemas: list[grpc_schema.Schema]) -> Any:
    """Server reflection, so that clients need no proto files."""
    own = grpc_schema.reflection(package)
    files = {name: s.file for s in schemas for name in (s.file.name, *s.symbols())}
    names = [f"{s.package}.{service}" for s in schemas for service in s.services]

    async def answer(messages: AsyncIterator[bytes], call: Any) -> AsyncIterator[Any]:
        async for raw in messages:
            message = await _read(own["ServerReflectionRequest"], raw, call)
            response = own["ServerReflectionResponse"](valid_host=message.host)
            response.original_request.CopyFrom(message)
            asked = message.WhichOneof("message_request")
            wanted = getattr(message, asked) if asked else ""
            if asked == "list_services":
                for name in names:
                    response.list_services_response.service.add(name=name)
            elif isinstance(wanted, str) and wanted in files:
                data = files[wanted].SerializeToString()
                response.file_descriptor_response.file_descriptor_proto.append(data)
            else:
                response.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
                response.error_response.error_message = f"{wanted} is not known"
            yield response

    handler = grpc.stream_stream_rpc_method_handler(
        answer,
        None,
        own["ServerReflectionResponse"].SerializeToString,
    )
    return grpc.method_handlers_generic_handler(
        f"{package}.ServerReflection", {"ServerReflectionInfo": handler}
    )

"""``tei.v1`` over gRPC: Text Embeddings Inference's services, with health and reflection.

One text for each message. Streams are answered in order, with a bounded number in flight. The
model is the default of the task, or the one that the call's metadata names as ``model``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from atoll_client.errors import AtollError, Overloaded, Unauthorized
from atoll_client.gateway import protocol, rpc_methods
from atoll_client.gateway.http import Request, Route
from atoll_client.gateway.settings import listed

logger = logging.getLogger(__name__)

_CODES = {
    "validation": grpc.StatusCode.INVALID_ARGUMENT,
    "empty": grpc.StatusCode.INVALID_ARGUMENT,
    "backend": grpc.StatusCode.FAILED_PRECONDITION,
    "generation": grpc.StatusCode.FAILED_PRECONDITION,
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unhealthy": grpc.StatusCode.UNAVAILABLE,
    "authentication": grpc.StatusCode.UNAUTHENTICATED,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "timeout": grpc.StatusCode.DEADLINE_EXCEEDED,
    "cancelled": grpc.StatusCode.CANCELLED,
}
# (a request, the call's message) -> fields of the response; "metadata" is added for all of them.
Method = Callable[[Request, Any], Awaitable[Any]]


class Services:
    """The gRPC side of a gateway. ``start`` and ``stop`` it in the gateway's event loop."""

    def __init__(self, gateway: Any) -> None:
        self._gateway = gateway
        self._keys = [key.encode() for key in listed(gateway.settings.api_key)]
        self._limit = gateway.settings.grpc_max_parallel_stream_requests
        self._schema = protocol.tei()
        self._methods = rpc_methods.methods(self._schema)
        self._server: Any = None

    async def start(self) -> None:
        """Listens.

        Raises:
            RuntimeError: the port is taken.
        """
        settings = self._gateway.settings
        self._server = grpc.aio.server(
            options=(("grpc.max_receive_message_length", settings.payload_limit),
                     ("grpc.so_reuseport", 0)),
        )  # fmt: skip
        self._server.add_generic_rpc_handlers(tuple(self._handlers()))
        self._server.add_insecure_port(f"{settings.hostname}:{settings.grpc_port}")
        await self._server.start()

    async def stop(self) -> None:
        """Lets calls in flight end."""
        await self._server.stop(10.0)

    def _handlers(self) -> list[Any]:
        found = []
        for service, methods in self._schema.services.items():
            table = {name: self._handler(service, name, types) for name, types in methods.items()}
            found.append(grpc.method_handlers_generic_handler(f"tei.v1.{service}", table))
        health = protocol.health()
        check = _unary_unary(health, "HealthCheckRequest", "HealthCheckResponse", self._check)
        found.append(
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})
        )
        for package in ("grpc.reflection.v1", "grpc.reflection.v1alpha"):
            found.append(_reflection(package, [self._schema, health]))
        return found

    def _handler(self, service: str, name: str, types: tuple[str, str]) -> Any:
        kinds = [self._schema[text.split()[-1]] for text in types]
        coders = (kinds[0].FromString, kinds[1].SerializeToString)
        path = f"/tei.v1.{service}/{name}"
        if name == "RerankStream":
            return grpc.stream_unary_rpc_method_handler(self._rerank_stream(path), *coders)
        method = self._methods[name.removesuffix("Stream")]
        if name.endswith("Stream"):
            return grpc.stream_stream_rpc_method_handler(self._stream(path, method), *coders)
        return grpc.unary_unary_rpc_method_handler(self._unary(path, method), *coders)

    def _unary(self, path: str, method: Method) -> Any:
        async def answer(message: Any, context: Any) -> Any:
            async with self._call(path, context) as request:
                return await method(request, message)

        return answer

    def _stream(self, path: str, method: Method) -> Any:
        async def answer(messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            async with self._call(path, context, "batch") as request:
                one = _each(request, method)
                async with contextlib.aclosing(_ordered(messages, one, self._limit)) as found:  # type: ignore[type-var]
                    async for response in found:
                        yield response

        return answer

    def _rerank_stream(self, path: str) -> Any:
        async def answer(messages: AsyncIterator[Any], context: Any) -> Any:
            async with self._call(path, context, "batch") as request:
                rows = [message async for message in messages]
                return await rpc_methods.rerank_rows(self._schema, request, rows)

        return answer

    @contextlib.asynccontextmanager
    async def _call(
        self, path: str, context: Any, method: str = "single"
    ) -> AsyncIterator[Request]:
        """One call: whose it is, how it is counted, and how its errors look."""
        headers = {k: v for k, v in context.invocation_metadata() if isinstance(v, str)}
        request = Request(
            self._gateway, "POST", path, headers, b"",
            headers.get("x-request-id") or secrets.token_hex(8), time.perf_counter(),
            headers.get("model"), Route("POST", path, _none, "tei", path), {"method": method},
        )  # fmt: skip
        status = 499
        with self._gateway.telemetry.span(request) as span:
            try:
                self._admit(headers)
                yield request
                status = 200
            except AtollError as error:
                status = error.http_status
                request.labels["error"] = error.error_type
                await context.abort(_CODES.get(error.error_type, _INTERNAL), str(error))
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                status = 500
                logger.exception("request %s: %s", request.request_id, path)
                await context.abort(_INTERNAL, f"{type(error).__name__}: {error}")
            finally:
                self._gateway.num_open -= 1
                span.end(request, status)
                self._gateway.metrics.finished(request, status)

    def _admit(self, headers: dict[str, str]) -> None:
        self._gateway.num_open += 1
        given = headers.get("authorization", "").removeprefix("Bearer ").encode()
        if self._keys and not any(hmac.compare_digest(given, key) for key in self._keys):
            raise Unauthorized("the API key is missing or wrong")
        limit = self._gateway.settings.max_concurrent_requests
        if self._gateway.num_open > limit:
            raise Overloaded(f"more than {limit} requests are held (max_concurrent_requests)")

    async def _check(self, message: Any, context: Any) -> dict[str, Any]:
        return {"status": "SERVING" if self._gateway.pool.is_ready else "NOT_SERVING"}


def _each(request: Request, method: Method) -> Callable[[Any], Awaitable[Any]]:
    """The method for one message of a stream, which has a clock of its own."""

    async def one(message: Any) -> Any:
        own = Request(
            request.gateway, request.method, request.path, request.headers, b"",
            request.request_id, time.perf_counter(), request.model, request.route,
            trace=request.trace,
        )  # fmt: skip
        return await method(own, message)

    return one


async def _ordered(
    messages: AsyncIterator[Any], method: Callable[[Any], Awaitable[Any]], limit: int
) -> AsyncIterator[Any]:
    """Answers in the order of the messages, at most ``limit`` at work."""
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
    finally:
        for task in (reader, *tasks):
            task.cancel()
        await asyncio.gather(reader, *tasks, return_exceptions=True)


def _unary_unary(schema: protocol.Schema, request: str, response: str, method: Any) -> Any:
    async def answer(message: Any, context: Any) -> Any:
        return schema[response](**await method(message, context))

    return grpc.unary_unary_rpc_method_handler(
        answer, schema[request].FromString, schema[response].SerializeToString
    )


def _reflection(package: str, schemas: list[protocol.Schema]) -> Any:
    """Tells clients what is served, so that they need no proto file."""
    own = protocol.reflection(package)
    files = {name: s.file for s in schemas for name in (s.file.name, *s.symbols())}
    names = [f"{s.package}.{service}" for s in schemas for service in s.services]

    async def answer(messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for message in messages:
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
        own["ServerReflectionRequest"].FromString,
        own["ServerReflectionResponse"].SerializeToString,
    )
    return grpc.method_handlers_generic_handler(
        f"{package}.ServerReflection", {"ServerReflectionInfo": handler}
    )


async def _none(request: Request, body: Any) -> Any:
    raise AssertionError("gRPC methods are called by Services")


_INTERNAL = grpc.StatusCode.INTERNAL

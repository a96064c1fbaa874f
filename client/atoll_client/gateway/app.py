"""The gateway as an ASGI application: finds the route, reads the body, answers or explains.

While a handler works, a second task waits for the client to leave; when it does, the handler is
cancelled, and with it the call to the server: before the first token as well as after.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import logging
import re
import secrets
import time
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from atoll_client.errors import (
    AtollError,
    MethodNotAllowed,
    NoRoute,
    NotReady,
    Overloaded,
    TooLarge,
    Unauthorized,
)
from atoll_client.gateway import dialects
from atoll_client.gateway.bodies import read
from atoll_client.gateway.http import Events, Receive, Reply, Request, Route, Scope, Send
from atoll_client.gateway.metrics import Metrics
from atoll_client.gateway.models import Models
from atoll_client.gateway.pool import Pool
from atoll_client.gateway.rpc import Services
from atoll_client.gateway.settings import GatewaySettings, listed
from atoll_client.gateway.streams import EventStream
from atoll_client.gateway.telemetry import Telemetry

logger = logging.getLogger(__name__)

_WATCH_AFTER_S = 0.03
# Names of authentication schemes are not case-sensitive.
_BEARER = re.compile("^bearer +", re.IGNORECASE)


class Gateway:
    """Routes and what they share: the servers, their models, metrics."""

    def __init__(self, settings: GatewaySettings, routes: Iterable[Route]) -> None:
        self.settings = settings
        self.pool = Pool(settings.servers, settings.health_interval_s, settings.request_timeout_s)
        self.models = Models(self.pool, listed(settings.default_model))
        self.metrics = Metrics(listed(settings.metrics_url))
        self.telemetry = Telemetry(settings.otlp_endpoint, settings.otlp_service_name)
        self.routes = list(routes)
        self._table = {(route.method, route.path): route for route in self.routes}
        self._paths = {route.path for route in self.routes}
        self._keys = [key.encode() for key in listed(settings.api_key)]
        self.num_open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.pool.start()
        services = await self._start_services()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if services is not None:
            await services.stop()
        await self.pool.stop()
        await self.metrics.close()
        await self.telemetry.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start_services(self) -> Services | None:
        if not self.settings.grpc_port:
            return None
        services = Services(self)
        await services.start()
        return services

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        request = Request(
            self, scope["method"], scope["path"], headers, b"",
            headers.get("x-request-id") or secrets.token_hex(8), time.perf_counter(),
        )  # fmt: skip
        status = 500
        with self.telemetry.span(request) as span:
            try:
                self.num_open += 1
                status = await self._handle(request, receive, send)
            except _ClientLeft:
                status = 499
            finally:
                self.num_open -= 1
                span.end(request, status)
                self.metrics.finished(request, status)

    async def _handle(self, request: Request, receive: Receive, send: Send) -> int:
        """The status that was sent."""
        try:
            request.route = self._find(request)
            self._authorize(request)
            if self.num_open > self.settings.max_concurrent_requests:
                raise Overloaded(
                    f"{self.num_open} requests are held; max_concurrent_requests is "
                    f"{self.settings.max_concurrent_requests}"
                )
            request.body = await self._read(request, receive)
            with _cancelled_with_client(request, receive):
                return await self._run(request, send)
        except _ClientLeft:
            raise
        except asyncio.CancelledError:
            return await _send_reply(request, dialects.explain(request, _ending()), send)
        except AtollError as error:
            return await _send_reply(request, dialects.explain(request, error), send)
        except Exception as error:
            logger.exception("request %s: %s", request.request_id, request.path)
            problem = AtollError(f"{type(error).__name__}: {error}")
            return await _send_reply(request, dialects.explain(request, problem), send)

    async def _run(self, request: Request, send: Send) -> int:
        route = request.route
        assert route is not None
        body = read(route.body, request.body) if route.body is not None else None
        answer = await route.handler(request, body)
        if isinstance(answer, Reply):
            return await _send_reply(request, answer, send)
        return await _send_events(request, answer, send)

    def _find(self, request: Request) -> Route:
        """The route of the path, or of what follows ``/{model}``."""
        path = _pattern(request.path.rstrip("/") or "/")
        method = "GET" if request.method == "HEAD" else request.method
        route = self._table.get((method, path))
        if route is not None:
            return route
        name, rest = self.models.split(path)
        if name is not None:
            request.model = name
            path = _pattern(rest)
            route = self._table.get((method, path))
            if route is not None:
                return route
        if path in self._paths:
            raise MethodNotAllowed(f"{path} does not answer to {request.method}")
        raise NoRoute(f"there is no route {request.path}")

    def _authorize(self, request: Request) -> None:
        if not self._keys or (request.route is not None and request.route.public):
            return
        given = _BEARER.sub("", request.headers.get("authorization", "")).encode()
        if not any(hmac.compare_digest(given, key) for key in self._keys):
            raise Unauthorized("the API key is missing or wrong")

    async def _read(self, request: Request, receive: Receive) -> bytes:
        limit = self.settings.payload_limit
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            raise TooLarge(f"the body has {announced} bytes; the limit is {limit}")
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientLeft
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > limit:
                raise TooLarge(f"the body has more than {limit} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _pattern(path: str) -> str:
    """The route's own name where a part of its path is the name of a model."""
    return "/v1/models/{model}" if path.startswith("/v1/models/") else path


class _ClientLeft(Exception):
    """Nobody is there to read an answer."""


class _cancelled_with_client:
    """Cancels the task inside when the client closes the connection.

    What is answered before ``_WATCH_AFTER_S`` needs no watch: a task for it would be a good part of
    what a short embedding costs here.
    """

    def __init__(self, request: Request, receive: Receive) -> None:
        self._request, self._receive = request, receive
        self._watch: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._begin)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._request.is_left and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise _ClientLeft from error

    def _begin(self) -> None:
        self._watch = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self._request.is_left = True
        assert self._task is not None
        self._task.cancel()


async def _send_reply(request: Request, answer: Reply, send: Send) -> int:
    headers = {"content-length": str(len(answer.body)), "content-type": answer.content_type}
    await send(_start(request, answer.status, {**headers, **answer.headers}))
    body = b"" if request.method == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": body})
    return answer.status


async def _send_events(request: Request, answer: Events, send: Send) -> int:
    stream = EventStream(answer, send, functools.partial(_start, request))
    async with contextlib.aclosing(answer.items), stream:  # type: ignore[type-var]
        try:
            async for item in answer.items:
                await stream.write(item)
        except Exception as error:
            # A request that is refused before anything was sent has a status of its own.
            if not stream.has_begun:
                raise
            if not isinstance(error, AtollError):
                logger.exception("request %s: %s", request.request_id, request.path)
            request.labels["error"] = dialects.as_ours(error).error_type
            await stream.write(answer.on_error(error))
        except asyncio.CancelledError:
            if request.is_left or not stream.has_begun:
                raise
            await stream.write(answer.on_error(_ending()))
        await stream.end()
    return 200


def _ending() -> NotReady:
    """Who still waits when the process has to end is told so."""
    return NotReady("the gateway is shutting down")


def _start(request: Request, status: int, headers: Mapping[str, str]) -> MutableMapping[str, Any]:
    pairs = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
    pairs.append((b"x-request-id", request.request_id.encode("latin-1", "replace")))
    return {"type": "http.response.start", "status": status, "headers": pairs}

"""The gateway as an ASGI application: finds the route, reads the body, answers or explains.

While a handler works, a second task waits for the client to leave; when it does, the handler is
cancelled, and with it the call to the server: before the first token as well as after.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

from atoll_client.errors import AtollError, MethodNotAllowed, NoRoute, NotReady
from atoll_client.gateway.core import error_formats
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.headers import read_headers, request_id
from atoll_client.gateway.core.request_body import ClientLeft, read_body
from atoll_client.gateway.core.schemas import read
from atoll_client.gateway.core.sending import ending, send_events, send_reply
from atoll_client.gateway.core.settings import GatewaySettings
from atoll_client.gateway.core.web import Handler, Receive, Reply, Request, Route, Scope, Send
from atoll_client.gateway.kserve import routes as kserve
from atoll_client.gateway.tei.grpc_server import Services

logger = logging.getLogger(__name__)

_WATCH_AFTER_S = 0.03


class Gateway:
    """Finds routes and answers; ``context`` is what all of them share."""

    def __init__(self, settings: GatewaySettings, routes: Iterable[Route]) -> None:
        self.context = Context.of(settings, tuple(routes))
        self._table = {(route.method, route.path): route for route in routes}
        self._methods = _methods_by_path(routes)
        self._services: Services | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            with self.context.open_requests.answering():
                await self._answer(scope, receive, send)

    def close_services(self, grace_s: float) -> None:
        """Takes no new calls over gRPC; those in flight have ``grace_s``."""
        if self._services is not None:
            self._services.close(grace_s)

    def end_requests(self) -> None:
        """Answers every request that is still held with 503, a stream with an error event, a call
        over gRPC with UNAVAILABLE."""
        self.context.open_requests.end()

    def lose(self, models: Sequence[str], sent_before: float) -> None:
        """Answers what was sent to these models before a moment of ``time.monotonic()`` with 503.

        Any thread may call. For requests of processes that have ended, which no server answers.
        """
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.context.pool.lose, models, sent_before)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._loop = asyncio.get_running_loop()
        await self.context.pool.start()
        try:
            self._services = await self._start_services()
        except RuntimeError as error:
            await self.context.pool.stop()
            text = f"grpc_port {self.context.settings.grpc_port} cannot be listened on: {error}"
            await send({"type": "lifespan.startup.failed", "message": text})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._services is not None:
            await self._services.stop()
        await self.context.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start_services(self) -> Services | None:
        if not self.context.settings.grpc_port:
            return None
        services = Services(self.context)
        await services.start()
        return services

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = read_headers(scope["headers"])
        request = Request(
            scope["method"], scope["path"], headers, b"", request_id(headers),
            time.perf_counter(), query=scope.get("query_string", b""),
        )  # fmt: skip
        status = 500
        with self.context.tracer.span(request) as span:
            try:
                status = await self._handle(request, receive, send)
            except ClientLeft:
                status = 499
            finally:
                span.end(request, status)
                self.context.metrics.finished(request, status)
                self.context.request_log.finished(request, status)

    async def _handle(self, request: Request, receive: Receive, send: Send) -> int:
        """The status that was sent."""
        try:
            try:
                request.route = self._find(request)
            except AtollError:
                # Who has no key does not learn which addresses exist.
                self.context.keys.check(request.headers.get("authorization", ""))
                raise
            if not request.route.public:
                self.context.keys.check(request.headers.get("authorization", ""))
            if request.route.public or request.route.uncounted:
                # Probes and metrics are wanted most when the gateway is full.
                return await self._read_and_run(request, receive, send)
            with self.context.admission.admitted():
                return await self._read_and_run(request, receive, send)
        except ClientLeft:
            raise
        except asyncio.CancelledError:
            refusal: AtollError = ending()
        except Exception as error:
            if not isinstance(error, AtollError):
                logger.exception("request %s: %s", request.request_id, request.path)
            refusal = error_formats.as_ours(error)
        return await send_reply(
            request, self.context, error_formats.explain(request, refusal), send
        )

    async def _read_and_run(self, request: Request, receive: Receive, send: Send) -> int:
        assert request.route is not None
        limit = request.route.body_limit(self.context.settings)
        with self.context.admission.held() as held:
            request.body = await read_body(
                receive, request.headers, limit, self.context.settings.body_timeout_s, held
            )
            with _cancelled_with_client(request, receive):
                return await self._run(request, send)

    async def _run(self, request: Request, send: Send) -> int:
        route = request.route
        assert route is not None
        body = read(request, self.context, route.body) if route.body is not None else None
        answer = await route.handler(request, self.context, body)
        if isinstance(answer, Reply):
            return await send_reply(request, self.context, answer, send)
        return await send_events(request, self.context, answer, send)

    def _find(self, request: Request) -> Route:
        """The route of the path, or of what follows ``/{model}``."""
        path = self._pattern(request, request.path.rstrip("/") or "/")
        route = self._route(request, path)
        if route is not None:
            return route
        name, rest = self.context.models.split(path)
        if name is not None:
            request.model = name
            path = self._pattern(request, rest)
            route = self._route(request, path)
            if route is not None:
                return route
        if path in self._methods:
            allowed = self._methods[path]
            if request.method == "OPTIONS":
                return Route("OPTIONS", path, _options(allowed), "tei", path)
            raise MethodNotAllowed(f"{path} does not answer to {request.method}", allowed)
        if not self.context.pool.is_ready and any(
            path.endswith(end) for end in self._methods if end != "/"
        ):
            # What stands before it may be a model of the server that is not there now.
            raise NotReady("no server is ready")
        raise NoRoute(f"there is no route {request.path}")

    def _route(self, request: Request, path: str) -> Route | None:
        method = "GET" if request.method == "HEAD" else request.method
        return self._table.get((method, path))

    @staticmethod
    def _pattern(request: Request, path: str) -> str:
        """The route's own name where parts of its path name a model and its version."""
        if path.startswith("/v1/models/"):
            return "/v1/models/{model}"
        return kserve.pattern(request, path) if path.startswith("/v2/") else path


def _options(allowed: Sequence[str]) -> Handler:
    async def answer(request: Request, context: Context, body: None) -> Reply:
        return Reply(b"", content_type="text/plain", headers={"allow": ", ".join(allowed)})

    return answer


def _methods_by_path(routes: Iterable[Route]) -> dict[str, tuple[str, ...]]:
    """What an ``Allow`` header says of each path."""
    found: dict[str, list[str]] = {}
    for route in routes:
        methods = ("GET", "HEAD") if route.method == "GET" else (route.method,)
        found.setdefault(route.path, []).extend(methods)
    return {path: (*methods, "OPTIONS") for path, methods in found.items()}


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
            raise ClientLeft from error

    def _begin(self) -> None:
        self._watch = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self._request.is_left = True
        assert self._task is not None
        self._task.cancel()

"""The gateway as a Starlette application: routes, middleware, error responses, lifespan."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atoll_client.errors import AtollError
from atoll_client.gateway.batches.runner import Runner
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.error_formats import explain
from atoll_client.gateway.core.route import Route
from atoll_client.gateway.core.routing import Table
from atoll_client.gateway.core.settings import GatewaySettings, listed
from atoll_client.gateway.core.told import Told
from atoll_client.gateway.core.web import Request
from atoll_client.gateway.tei.grpc_server import Services


class Gateway(Starlette):
    """The application. ``context`` is what all handlers share."""

    def __init__(self, settings: GatewaySettings, routes: Iterable[Route]) -> None:
        self.context = Context.of(settings, tuple(routes))
        middleware = [Middleware(Observed, context=self.context)]
        origins = listed(settings.cors_allow_origin)
        if origins:
            cors = Middleware(
                CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"],
                expose_headers=["*"],
            )  # fmt: skip
            middleware.insert(0, cors)
        super().__init__(middleware=middleware, exception_handlers={AtollError: explain})
        self.router = Table(self.context.routes, self.context, self._lifespan)
        self.runner = Runner(self.context, Observed)
        if self.context.batches.is_configured:
            self.context.metrics.sources.append(self.context.batches.metric_lines)
        self._services: Services | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, _Brief(send))
        elif scope["type"] == "http":
            with self.context.open_requests.answering():
                await super().__call__(scope, receive, send)

    def close_services(self, grace_s: float) -> None:
        """Accepts no more gRPC calls; open ones have ``grace_s`` seconds to end."""
        if self._services is not None:
            self._services.close(grace_s)

    def pause_batches(self, grace_s: float) -> None:
        """Begins no more lines of batches; open ones have ``grace_s`` seconds to end."""
        self.runner.pause(grace_s)

    def end_requests(self) -> None:
        """Ends every open request: with 503, an error event, or UNAVAILABLE over gRPC."""
        self.context.open_requests.end()

    def lose(self, models: Sequence[str], sent_before: float) -> None:
        """Ends requests to models whose processes have ended with 503. Any thread may call.

        sent_before: only those sent before this time of ``time.monotonic()``.
        """
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.context.pool.lose, models, sent_before)

    @property
    def told(self) -> Told:
        """What the launcher says of models that are not there; any thread may change it."""
        return self.context.pool.told

    def renew(self, models: Iterable[str]) -> None:
        """Looks at once at models that have come, gone or changed. Any thread may call."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.context.pool.renew, models)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        context = self.context
        self._loop = asyncio.get_running_loop()
        await context.pool.start()
        self.runner.start()
        try:
            async with contextlib.AsyncExitStack() as stack:
                if context.settings.grpc_port:
                    self._services = await stack.enter_async_context(Services(context))
                yield
        finally:
            await self.runner.stop()
            await context.close()


class Observed:
    """Middleware: gives each request an id and a span, logs and counts it."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app, self._context = app, context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, status = Request(scope, receive, send), 500
        request.enter()

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] += _headers(request)
                message["headers"] += self._context.client_limits.headers(request)
            await send(message)

        with self._context.tracer.span(request) as span:
            try:
                await self._app(scope, receive, named)
            except ClientDisconnect:
                status = 499
            finally:
                request.leave()
                self._context.client_limits.ended(request)
                span.end(request, status)
                self._context.metrics.finished(request, status)
                self._context.request_log.finished(request, status)


def _headers(request: Request) -> list[tuple[bytes, bytes]]:
    request_id = request.request_id.encode("latin-1", "replace")
    found = [(b"x-request-id", request_id)]
    if request.dialect == "anthropic":
        found.append((b"request-id", request_id))
    if request.unknown_fields:
        names = ", ".join(quote(name, safe="[]._-") for name in request.unknown_fields)
        found.append((b"x-unknown-fields", names.encode()))
    return found


class _Brief:
    """Reduces Starlette's traceback of a failed start to its last line, which has the reason."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            message["message"] = message["message"].strip().splitlines()[-1].partition(": ")[2]
        await self._send(message)

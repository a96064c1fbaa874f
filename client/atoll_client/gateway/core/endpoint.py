"""One route as an ASGI application: key, admission, body, response."""

from __future__ import annotations

import asyncio
import logging

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from atoll_client.errors import Asleep, AtollError
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.error_formats import as_ours
from atoll_client.gateway.core.route import Route
from atoll_client.gateway.core.schemas import read
from atoll_client.gateway.core.sse import ending
from atoll_client.gateway.core.watch import Watch
from atoll_client.gateway.core.web import Request

logger = logging.getLogger(__name__)


class Endpoint:
    """A route of a gateway."""

    def __init__(self, route: Route, context: Context) -> None:
        self._route, self._context = route, context
        # Probes and metrics have to work when the gateway is full, too.
        self._count = 0 if route.public or route.admin or route.uncounted else 1
        self._body = route.body
        self._limit = route.body_limit(context.settings)

    @property
    def is_public(self) -> bool:
        """Whether it answers without a key."""
        return self._route.public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request.

        Raises:
            AtollError: why it failed. ClientDisconnect: the client has gone, or does not read.
        """
        request, route = Request.of(scope), self._route
        request.route, request.dialect, request.is_public = route.path, route.dialect, route.public
        if not (route.public or route.admin):
            self._context.keys.check(request.headers)
            request.client_name = self._context.clients.name(request)
            if self._count:
                self._context.client_limits.admit(request)
        try:
            await self._answer(request, receive, send)
        except asyncio.CancelledError:
            raise ending() from None
        except (AtollError, ClientDisconnect):
            raise
        except Exception as error:
            logger.exception("request %s: %s", request.request_id, request.path)
            raise as_ours(error) from error

    async def _answer(self, request: Request, receive: Receive, send: Send) -> None:
        """A client that disconnects cancels the handler, and its calls to servers with it."""
        context, settings = self._context, self._context.settings
        with (
            context.admission.admitted(request.client_name, self._count),
            context.admission.held(request.client_name) as hold,
            Watch(request, settings, send) as watch,
        ):  # fmt: skip
            if self._route.is_upload:
                request.reader = watch
            else:
                await request.read(self._limit, hold)
                watch.begin()
            body = None if self._body is None else read(request, context, self._body)
            try:
                response = await self._route.handler(request, context, body)
            except Asleep as error:
                await context.sleepers.wake(error.model)
                response = await self._route.handler(request, context, body)
            await response(request.scope, receive, watch.send)

"""One route as an ASGI application: checks the key, admits, reads the body, answers."""

from __future__ import annotations

import asyncio
import logging

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from atoll_client.errors import AtollError
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.error_formats import as_ours
from atoll_client.gateway.core.schemas import read
from atoll_client.gateway.core.sse import ending
from atoll_client.gateway.core.watch import Watch
from atoll_client.gateway.core.web import Request, Route

logger = logging.getLogger(__name__)


class Endpoint:
    """A route of one gateway."""

    def __init__(self, route: Route, context: Context) -> None:
        self._route, self._context = route, context
        # Probes and metrics are wanted most when the gateway is full.
        self._count = 0 if route.public or route.uncounted else 1
        self._limit = route.body_limit(context.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request.

        Raises:
            AtollError: why it cannot be answered. ClientDisconnect: nobody reads the answer.
        """
        request, route = Request.of(scope), self._route
        request.route, request.dialect, request.is_public = route.path, route.dialect, route.public
        if not route.public:
            self._context.keys.check(request.headers)
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
        """While a handler works, the client may leave: that cancels it, and the call to the server
        with it, before the first token as well as after.
        """
        context, settings = self._context, self._context.settings
        with (
            context.admission.admitted(self._count), context.admission.held() as hold,
            Watch(request, settings, send) as watch,
        ):  # fmt: skip
            await request.read(self._limit, hold)
            watch.begin()
            kind = self._route.body
            body = None if kind is None else read(request, context, kind)
            response = await self._route.handler(request, context, body)
            await response(request.scope, receive, watch.send)

"""Calls a route as an HTTP request of the batch's owner would, with the lowest priority."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atoll_client.errors import AtollError
from atoll_client.gateway.batches.schemas import Endpoint as EndpointName
from atoll_client.gateway.core.admission import Admission
from atoll_client.gateway.core.clients import BATCH
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.endpoint import Endpoint
from atoll_client.gateway.core.error_formats import explain
from atoll_client.gateway.core.web import JSON, Request
from atoll_client.kserve import MAX_PRIORITY, PRIORITY


@dataclass(frozen=True)
class Answer:
    """What a route answered; body: JSON."""

    status: int
    request_id: str
    body: bytes


class Caller:
    """Has limits of its own, so that batches never fill those of the gateway's other requests.

    observed: the middleware that counts and logs requests.
    """

    def __init__(self, context: Context, observed: Callable[[ASGIApp, Context], ASGIApp]) -> None:
        settings = context.settings
        most = max(settings.batch_parallel_lines, settings.max_answers)
        limits = Admission(replace(settings, max_concurrent_requests=most), context.models)
        own = replace(context, admission=limits)
        self._keys = context.keys
        self._routes = {
            route.path: Endpoint(route, own)
            for route in context.routes
            if route.method == "POST" and route.path in get_args(EndpointName)
        }
        self._app = observed(self._route, own)

    async def call(self, path: str, body: bytes, owner: str, model: str | None) -> Answer:
        """The route's answer.

        owner: of the API key. model: that the path of the batch's creation named.
        """
        request_id = secrets.token_hex(8)
        key = self._keys.of_owner(owner)
        headers = [
            (b"content-type", JSON.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
            (PRIORITY.encode(), str(MAX_PRIORITY).encode()),
            *([(b"x-api-key", key)] if key is not None else []),
        ]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "headers": headers, "client": None, "server": None,
            "atoll.model": model, BATCH: owner,
        }  # fmt: skip
        exchange = _Exchange(body)
        await self._app(scope, exchange.receive, exchange.send)
        return Answer(exchange.status, request_id, bytes(exchange.body))

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request.of(scope)
        request.model = scope["atoll.model"]
        try:
            await self._routes[request.path](scope, receive, send)
        except AtollError as error:
            response = await explain(request, error)
            await response(scope, receive, send)


class _Exchange:
    """The client's side of one request. It never disconnects."""

    def __init__(self, body: bytes) -> None:
        self._request, self._is_sent = body, False
        self.status, self.body = 0, bytearray()

    async def receive(self) -> Message:
        if self._is_sent:
            await asyncio.Event().wait()
        self._is_sent = True
        return {"type": "http.request", "body": self._request, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")

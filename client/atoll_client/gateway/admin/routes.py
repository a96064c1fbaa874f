"""Passes requests of administrators on to the launcher's socket, which checks their key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from atoll_client.errors import NotReady
from atoll_client.gateway.admin.answers import AdminDone, AdminEvent, AdminReport
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.launcher import connected
from atoll_client.gateway.core.sse import Lines
from atoll_client.gateway.core.web import Reply, Request, Text

_PASSED_ON = ("authorization", "content-type")


async def models(request: Request, context: Context, body: None) -> Reply[AdminReport]:
    """The models of the server, and how they are."""
    answer: Reply[AdminReport] = await _passed(request, context)
    return answer


async def change(
    request: Request, context: Context, body: None
) -> Reply[AdminDone] | Lines[AdminEvent]:
    """Loads, unloads or reloads a model or an adapter, by the route."""
    answer: Reply[AdminDone] | Lines[AdminEvent] = await _passed(request, context)
    return answer


async def logs(request: Request, context: Context, body: None) -> Text:
    """The server's log."""
    answer: Text = await _passed(request, context)
    return answer


async def _passed(request: Request, context: Context) -> Any:
    """The launcher's answer.

    Raises:
        NotOffered: there is no launcher, or it has no admin key. NotReady: it does not answer.
    """
    client = connected(context.settings.admin_socket)
    # As they came: httpx takes bytes for what is not ASCII.
    given = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    headers = {name.encode(): value.encode("latin-1") for name, value in given.items()}
    asked = client.build_request(
        request.method, f"/keyed{request.route}", content=request.raw, headers=headers,
        params=[*request.query_params.multi_items()],
    )  # fmt: skip
    try:
        answer = await client.send(asked, stream=True)
    except httpx.HTTPError as error:
        await client.aclose()
        raise NotReady(f"the launcher does not answer: {error}") from error
    return _Passed(client, answer)


class _Passed(StreamingResponse):
    def __init__(self, client: httpx.AsyncClient, answer: httpx.Response) -> None:
        kept = ("content-type", "www-authenticate")
        headers = {name: answer.headers[name] for name in kept if name in answer.headers}
        # A buffering proxy would deliver the lines in one piece.
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(_pieces(answer), answer.status_code, headers)
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._client.aclose()


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    except httpx.HTTPError:
        return  # the launcher has ended: the last line is missing
    finally:
        await answer.aclose()

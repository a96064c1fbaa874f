"""The admin routes as an ASGI application, with a key or without."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from atoll.launcher.admin.activity import Activity
from atoll.launcher.admin.adapters import AdapterControl, Wanted
from atoll.launcher.admin.bodies import (
    AdminBody,
    LoadAdapterBody,
    LoadBody,
    ReloadBody,
    UnloadAdapterBody,
    UnloadBody,
)
from atoll.launcher.admin.control import ModelControl
from atoll.launcher.admin.idle import IdleModels
from atoll.launcher.admin.keys import is_key
from atoll.launcher.admin.loading import Report
from atoll.launcher.admin.log_lines import MAX_LINES, log_lines, names
from atoll.launcher.admin.operations import answer
from atoll.launcher.admin.report import report

B = TypeVar("B", bound=AdminBody)
_TAIL = 100
_TRUE, _FALSE = ("1", "true", "yes"), ("", "0", "false", "no")


class _Refused(Exception):
    """The request is wrong; says why."""


def application(
    control: ModelControl, adapters: AdapterControl, idle: IdleModels, activity: Activity,
    about: Mapping[str, Any], key: str | None, allows_adapters: bool,
) -> tuple[ASGIApp, ASGIApp]:  # fmt: skip
    """The application of the socket, and the one for everybody else, which asks for the key.

    The first has the second's routes besides, below ``/keyed``, for the gateway, which passes on
    what its clients have sent; and below ``/allowed`` those for adapters, if clients of the gateway
    may load them without the admin key.
    """
    own = _Routes(control, adapters, idle, activity, about, is_own=True)
    theirs = _Routes(control, adapters, idle, activity, about, is_own=False)
    keyed = _Keyed(_application(theirs.table()), key)
    routes: list[BaseRoute] = [*own.table(), Mount("/keyed", keyed)]
    if allows_adapters:
        routes.append(Mount("/allowed", _application(theirs.adapter_table())))
    return _application(routes), keyed


def _application(routes: Sequence[BaseRoute]) -> Starlette:
    handlers = {_Refused: _explain, HTTPException: _explain_route}
    return Starlette(routes=routes, exception_handlers=handlers)


async def _explain(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error), "error_type": "validation"}, 422)


async def _explain_route(request: Request, error: Exception) -> Response:
    """There is no such route, or not with this method."""
    assert isinstance(error, HTTPException)
    path = _path(request)
    text = f"{path} does not take {request.method}" if error.status_code == 405 else f"no {path}"
    kind = "validation" if error.status_code == 405 else "not_found"
    body = {"error": text, "error_type": kind}
    return JSONResponse(body, error.status_code, error.headers)


def _path(request: Request) -> str:
    """As the client has asked for it: without what the gateway has put before it."""
    root = request.scope.get("root_path", "")
    return request.url.path.removeprefix(root)


class _Keyed:
    """Lets requests pass that have the key as a bearer token; none if there is no key."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http":
            given = Request(scope).headers.get("authorization", "")
            if self._key is None:
                closed = {
                    "error": "the server has no admin key: --admin-key-file",
                    "error_type": "authentication",
                }
                await JSONResponse(closed, 403)(scope, receive, send)
                return
            if not is_key(given, self._key):
                body = {
                    "error": "the admin key is missing or wrong", "error_type": "authentication",
                }  # fmt: skip
                wrong = JSONResponse(body, 401, {"www-authenticate": "Bearer"})
                await wrong(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Routes:
    def __init__(
        self, control: ModelControl, adapters: AdapterControl, idle: IdleModels, activity: Activity,
        about: Mapping[str, Any], is_own: bool,
    ) -> None:  # fmt: skip
        self._control, self._adapters, self._activity = control, adapters, activity
        self._about, self._is_own, self._idle = about, is_own, idle

    def table(self) -> list[Route]:
        return [
            Route("/admin/models", self.models, methods=["GET"]),
            Route("/admin/models/load", self.load, methods=["POST"]),
            Route("/admin/models/unload", self.unload, methods=["POST"]),
            Route("/admin/models/reload", self.reload, methods=["POST"]),
            Route("/admin/logs", self.logs, methods=["GET"]),
            *self.adapter_table(),
        ]

    def adapter_table(self) -> list[Route]:
        return [
            Route("/admin/adapters/load", self.load_adapter, methods=["POST"]),
            Route("/admin/adapters/unload", self.unload_adapter, methods=["POST"]),
        ]

    async def load_adapter(self, request: Request) -> Response:
        body = await _read(request, LoadAdapterBody)
        wanted = Wanted(body.lora_name, body.lora_path, body.model, body.load_inplace, self._is_own)

        def work(tell: Report) -> dict[str, Any]:
            return {"models": [self._adapters.load(wanted, tell)]}

        return await answer(work, body.stream)

    async def unload_adapter(self, request: Request) -> Response:
        body = await _read(request, UnloadAdapterBody)

        def work(tell: Report) -> dict[str, Any]:
            return {"models": [self._adapters.unload(body.lora_name, body.model)]}

        return await answer(work, body.stream)

    async def models(self, request: Request) -> Response:
        _only(request)
        found = await asyncio.to_thread(
            report, self._control, self._activity, self._about, self._idle.asleep
        )
        return JSONResponse(found)

    async def load(self, request: Request) -> Response:
        body = await _read(request, LoadBody)
        name = {"served_model_name": body.name} if body.name else {}

        def work(tell: Report) -> dict[str, Any]:
            return {"models": self._control.load(body.model, {**body.settings, **name}, tell)}

        return await answer(work, body.stream)

    async def unload(self, request: Request) -> Response:
        body = await _read(request, UnloadBody)
        own = float(self._control.process.options.exit_timeout_s)
        grace_s = own if body.grace_s is None else body.grace_s

        def work(tell: Report) -> dict[str, Any]:
            gone = self._idle.forget(body.model)
            return {"models": gone or self._control.unload(body.model, grace_s, tell)}

        return await answer(work, body.stream)

    async def reload(self, request: Request) -> Response:
        body = await _read(request, ReloadBody)

        def work(tell: Report) -> dict[str, Any]:
            self._idle.check_awake(body.model)
            return {"models": self._control.reload(body.model, body.settings, tell)}

        return await answer(work, body.stream)

    async def logs(self, request: Request) -> Response:
        _only(request, "lines", "follow", "model")
        query = request.query_params
        lines, follow = query.get("lines", str(_TAIL)), query.get("follow", "").lower()
        if not lines.isdecimal() or int(lines) > MAX_LINES:
            raise _Refused(f"lines is {lines!r}; it must be a number, at most {MAX_LINES}")
        if follow not in (*_TRUE, *_FALSE):
            raise _Refused(f"follow is {follow!r}; it must be true or false")
        path, model = self._control.process.log_path, query.get("model", "")
        known = self._control.served.known()
        # One that has failed to load is gone, its lines are not.
        if model and model not in known and not await asyncio.to_thread(names, path, model):
            shown = ", ".join(sorted(known)) or "none"
            raise _Refused(f"model is {model!r:.200}, which no line names; the models: {shown}")
        found = log_lines(path, int(lines), model, follow in _TRUE)
        return StreamingResponse(found, media_type="text/plain; charset=utf-8")


def _only(request: Request, *names: str) -> None:
    unknown = sorted(set(request.query_params) - set(names))
    if unknown:
        known = f"; known: {', '.join(names)}" if names else ""
        raise _Refused(f"{unknown[0]} is no parameter of {_path(request)}{known}")


async def _read(request: Request, kind: type[B]) -> B:
    _only(request)
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise _Refused(f"{where}: {first['msg']}") from None

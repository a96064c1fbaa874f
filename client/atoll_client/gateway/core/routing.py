"""Finds the route of a request: Starlette's router, with a dictionary for plain paths.

All routes exist below ``/{model}`` too. A model's name may contain a slash, and is known only as
long as the model is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.routing import Route as StarletteRoute
from starlette.routing import Router
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from atoll_client.errors import AtollError, MethodNotAllowed, NoRoute, NotReady
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.endpoint import Endpoint
from atoll_client.gateway.core.route import Handler, Route
from atoll_client.gateway.core.web import Request, Text, nothing


class Table(Router):
    """The routes of a gateway."""

    def __init__(self, routes: Iterable[Route], context: Context, lifespan: Lifespan[Any]) -> None:
        self._context = context
        # Path -> method -> application, in the order of the ``Allow`` header.
        self._methods: dict[str, dict[str, Endpoint]] = {}
        made = [self._add(route) for route in routes]
        for path, methods in self._methods.items():
            allowed = (*methods, "OPTIONS")
            is_public = all(endpoint.is_public for endpoint in methods.values())
            options = Route("OPTIONS", path, _options(allowed), "tei", path, public=is_public)
            methods["OPTIONS"] = Endpoint(options, context)
        self._patterns = [one for one in made if one.param_convertors]
        self._plain = {one.path_format for one in made if not one.param_convertors}
        super().__init__(made, lifespan=lifespan)

    def _add(self, route: Route) -> StarletteRoute:
        endpoint = Endpoint(route, self._context)
        methods = ("GET", "HEAD") if route.method == "GET" else (route.method,)
        self._methods.setdefault(route.path, {}).update(dict.fromkeys(methods, endpoint))
        return StarletteRoute(route.pattern or route.path, endpoint, methods=methods)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request to its route."""
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
            return
        request = Request.of(scope)
        try:
            endpoint = self._find(request)
        except AtollError as error:
            # Without a key, a client must not learn which routes exist, but for public ones.
            if not (isinstance(error, MethodNotAllowed) and error.is_public):
                self._context.keys.check(request.headers)
            raise
        await endpoint(scope, receive, send)

    def _find(self, request: Request) -> ASGIApp:
        """The application for the path, or for the part after ``/{model}``."""
        path = request.path.rstrip("/") or "/"
        methods = self._resolve(request, path)
        if request.method not in methods:
            name, path = self._context.models.split(path)
            if name is not None:
                request.model = name
                methods = self._resolve(request, path)
        if request.method in methods:
            return methods[request.method]
        if methods:
            is_public = all(endpoint.is_public for endpoint in methods.values())
            raise MethodNotAllowed(
                f"{path} does not answer to {request.method}", tuple(methods), is_public=is_public
            )
        if not self._context.pool.is_ready and any(
            path.endswith(end) for end in self._methods if end != "/"
        ):
            # The part before may be a model of a server that is not reachable.
            raise NotReady("no server is ready")
        raise NoRoute(f"there is no route {request.path}")

    def _resolve(self, request: Request, path: str) -> Mapping[str, Endpoint]:
        """The applications of a path by method. Sets the path's parameters in the request."""
        if path in self._plain:
            return self._methods[path]
        for route in self._patterns:
            match = route.path_regex.match(path)
            if match is not None:
                found = match.groupdict()
                request.scope["path_params"] = found
                request.model = found.get("model", request.model)
                request.version = found.get("version", "")
                return self._methods[route.path_format]
        return {}


def _options(allowed: Iterable[str]) -> Handler:
    async def answer(request: Request, context: Context, body: None) -> Text:
        return nothing({"allow": ", ".join(allowed)})

    return answer

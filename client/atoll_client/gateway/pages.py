"""Pages for browsers: the start page, the API reference, and the files that they load.

All of them come from this package, so that they work without the internet. ``assets/swagger-ui``
is the npm package swagger-ui-dist as published, with its licence.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from atoll_client.errors import NoRoute
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.web import Page, Request, Text
from atoll_client.gateway.shape_routing import health

_ASSETS = Path(str(resources.files("atoll_client.gateway"))) / "assets"
_FILES = StaticFiles(directory=_ASSETS)
_ONLY_OURS = (
    "default-src 'none'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
)
_PLAYGROUND = {"content-security-policy": f"{_ONLY_OURS}style-src 'self'"}
# Swagger UI sets styles of elements from scripts.
_REFERENCE = {"content-security-policy": f"{_ONLY_OURS}style-src 'self' 'unsafe-inline'"}


async def start(request: Request, context: Context, body: None) -> Page | Text:
    """A page on which the models can be tried. Probes, which do not accept HTML, get /health."""
    if "text/html" not in request.headers.get("accept", ""):
        return await health(request, context, None)
    return Page((_ASSETS / "index.html").read_text(encoding="utf-8"), headers=_PLAYGROUND)


async def reference(request: Request, context: Context, body: None) -> Page:
    """OpenAPI's description as a page where every route can be tried."""
    return Page((_ASSETS / "docs.html").read_text(encoding="utf-8"), headers=_REFERENCE)


async def asset(request: Request, context: Context, body: None) -> Response:
    """A file of a page.

    Raises:
        NoRoute: there is none.
    """
    name = request.path_params["file"]
    try:
        return await _FILES.get_response(name, request.scope)
    except HTTPException:
        raise NoRoute(f"there is no file {name}") from None

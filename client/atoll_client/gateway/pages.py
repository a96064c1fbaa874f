"""Pages for browsers: the start page, the API reference, and the files that they load.

All of them come from this package, so that they work without the internet. ``assets/swagger-ui``
is the npm package swagger-ui-dist as published, with its licence.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from atoll_client.errors import NoRoute
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.web import Page, Request, Text
from atoll_client.gateway.shape_routing import health

_PACKAGE = Path(str(resources.files("atoll_client.gateway")))
_FILES = StaticFiles(directory=_PACKAGE / "assets")
# Swagger UI sets styles of elements from scripts; its icons are data URLs.
_REFERENCE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
}


async def start(request: Request, context: Context, body: None) -> Page | Text:
    """A page with a form for each model. Probes, which do not accept HTML, get /health."""
    if "text/html" not in request.headers.get("accept", ""):
        return await health(request, context, None)
    models = [
        {"name": m.name, "task": m.task, "model_id": m.public_id} for m in context.models.all()
    ]
    # "</script>" in a name would end the element.
    data = json.dumps(models).replace("<", "\\u003c")
    text = (_PACKAGE / "index.html").read_text(encoding="utf-8")
    return Page(text.replace("{{models}}", data))


async def reference(request: Request, context: Context, body: None) -> Page:
    """OpenAPI's description as a page where every route can be tried."""
    text = (_PACKAGE / "assets" / "docs.html").read_text(encoding="utf-8")
    return Page(text, headers=_REFERENCE_HEADERS)


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

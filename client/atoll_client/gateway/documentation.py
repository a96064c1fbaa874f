"""The gateway's description: OpenAPI, a page of it, and the page that browsers get at ``/``."""

from __future__ import annotations

import html
import json
from importlib import resources
from typing import Any

import atoll_client
from atoll_client.gateway.http import Reply, Request, Route, reply
from atoll_client.gateway.shared import AnyBody, health

_HTML = "text/html; charset=utf-8"
_TAGS = {
    "openai": "OpenAI",
    "tei": "Text Embeddings Inference",
    "tgi": "Text Generation Inference",
    "kserve": "KServe",
}
_STATUSES = {
    "400": "Empty input, or a body that is not JSON", "401": "API key missing or wrong",
    "404": "No such model", "413": "Body too large", "422": "Validation error",
    "424": "The model cannot do this, or failed", "429": "Overloaded", "503": "Not ready",
}  # fmt: skip


async def openapi(request: Request, body: None) -> Reply:
    """The description as JSON."""
    return reply(describe(request.gateway.routes))


async def docs(request: Request, body: None) -> Reply:
    """The description as a page without scripts."""
    rows = "".join(_row(route) for route in request.gateway.routes)
    text = _read("docs.html").replace("{{rows}}", rows)
    return Reply(text.encode(), content_type=_HTML)


async def page(request: Request, body: None) -> Reply:
    """What is served, with a form for each model; a probe that wants no HTML gets /health's."""
    if "text/html" not in request.headers.get("accept", ""):
        return await health(request, None)
    models = [
        {"name": m.name, "task": m.task, "model_id": m.model_id}
        for m in request.gateway.models.all()
    ]
    # "<" would end the script element early.
    data = json.dumps(models).replace("<", "\\u003c")
    return Reply(_read("index.html").replace("{{models}}", data).encode(), content_type=_HTML)


def describe(routes: list[Route]) -> dict[str, Any]:
    """OpenAPI 3.1 of the routes."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {}
    for route in routes:
        operation: dict[str, Any] = {
            "summary": route.summary,
            "tags": [_TAGS[route.dialect]],
            "operationId": f"{route.method.lower()}{route.path.replace('/', '_')}",
            "responses": {"200": {"description": "OK"}},
        }
        if not route.public:
            operation["security"] = [{"bearer": []}, {}]
            operation["responses"] |= {k: {"description": v} for k, v in _STATUSES.items()}
        if "{model}" in route.path:
            operation["parameters"] = [
                {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
            ]
        if route.body is not None:
            operation["requestBody"] = _body(route, schemas)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Atoll gateway", "version": atoll_client.__version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _body(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    assert route.body is not None
    schema: dict[str, Any] = {"type": "object"}
    if route.body is not AnyBody:
        found = route.body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(found.pop("$defs", {}))
        schemas[route.body.__name__] = found
        schema = {"$ref": f"#/components/schemas/{route.body.__name__}"}
    content = {"schema": schema, "example": route.example}
    return {"required": True, "content": {"application/json": content}}


def _row(route: Route) -> str:
    example = html.escape(json.dumps(route.example, indent=2)) if route.example else ""
    return (
        f"<tr><td><code>{route.method} {html.escape(route.path)}</code></td>"
        f"<td>{_TAGS[route.dialect]}</td><td>{html.escape(route.summary)}"
        f"{f'<pre>{example}</pre>' if example else ''}</td></tr>\n"
    )


def _read(name: str) -> str:
    return (resources.files("atoll_client.gateway") / name).read_text(encoding="utf-8")

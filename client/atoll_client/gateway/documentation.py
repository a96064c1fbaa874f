"""OpenAPI's description of the gateway."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any

import atoll_client
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.forms import FORM
from atoll_client.gateway.core.route import DIALECTS, Route
from atoll_client.gateway.core.schemas import FormBody
from atoll_client.gateway.core.web import JSON, Reply, Request, dump
from atoll_client.gateway.described_errors import ERROR_HEADERS, error_schemas, errors_by_status
from atoll_client.gateway.described_schemas import schema_of, schema_of_texts, text_fields
from atoll_client.gateway.kserve.json_response import BINARY

_HEADERS = {
    "x-request-id": ("The request's, or one that was made for it", "string"),
    "x-unknown-fields": ("Fields of the body that were ignored", "string"),
    **ERROR_HEADERS,
}
_ABOUT = """\
Every path exists below `/{model}` too, for one model: `/all-minilm-l6-v2/embed`. The headers
`traceparent` and `tracestate` of a request are passed on to the server. The schema of a stream is
that of the data of one event, or of one line; streams of OpenAI's routes end with `[DONE]`.
In a request, a field that is null counts as absent."""
_PATH_PARAMETERS = {
    "model": {
        "description": "A served model",
        "schema": {"type": "string"},
    },
    "version": {
        "description": "The model's version",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "example": "1",
    },
    "response_id": {"description": "Of a stored response", "schema": {"type": "string"}},
    "file_id": {"description": "Of a file", "schema": {"type": "string"}},
    "batch_id": {"description": "Of a batch", "schema": {"type": "string"}},
}


async def openapi(request: Request, context: Context, body: None) -> Reply[dict[str, Any]]:
    """The description as JSON. It takes a second to make, and is kept."""
    has_key = bool(context.settings.api_key)
    return Reply(await asyncio.to_thread(_described, context.routes, has_key))


@functools.cache
def _described(routes: tuple[Route, ...], has_key: bool) -> bytes:
    return dump(describe(routes, has_key=has_key))


def describe(routes: Iterable[Route], *, has_key: bool = False) -> dict[str, Any]:
    """OpenAPI 3.1 of the routes. has_key: whether this gateway asks for a key."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {}
    refusals: dict[str, Any] = {}
    for route in routes:
        if not route.answers:  # it refuses all requests
            continue
        operation: dict[str, Any] = {
            "summary": route.summary,
            "tags": [DIALECTS[route.dialect]],
            "operationId": _operation_id(route),
            "responses": {"200": _answer(route, schemas), **_errors(route, schemas, refusals)},
        }
        if route.admin:
            operation["security"] = [{"admin": []}]
        elif not route.public:
            operation["security"] = [{"bearer": []}, {"key": []}, *([] if has_key else [{}])]
        parameters = [
            *_path_parameters(route), *_query_parameters(route), *_header_parameters(route),
        ]  # fmt: skip
        if parameters:
            operation["parameters"] = parameters
        if route.kinds:
            operation["requestBody"] = _body(route, schemas)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Atoll gateway",
            "version": atoll_client.__version__,
            "description": _ABOUT,
        },
        "tags": [{"name": name} for name in DIALECTS.values()],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": refusals,
            "headers": {
                name: {"description": text, "schema": {"type": kind}}
                for name, (text, kind) in _HEADERS.items()
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "admin": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation_id(route: Route) -> str:
    """A name for generated clients: GET /v1/models/{model} is ``get_v1_model``."""
    path = re.sub(r"\w+/{(\w+?)(?:_id)?}", r"\1", route.path)
    name = re.sub(r"\W+", "_", path).strip("_") or "root"
    return f"{route.method.lower()}_{name}"


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", route.path):
        about = _PATH_PARAMETERS.get(name, {"schema": {"type": "string"}})
        example = {"example": route.example_model} if name == "model" else {}
        yield {"name": name, "in": "path", "required": True, **about, **example}


def _query_parameters(route: Route) -> Iterator[dict[str, Any]]:
    if route.query is None:
        return
    for name, schema in text_fields(route.query).items():
        yield {"name": name, "in": "query", "required": False, "schema": schema}


def _header_parameters(route: Route) -> Iterator[dict[str, Any]]:
    own = {} if route.public else {"x-request-id": "Is returned, and in logs and traces"}
    for name, text in {**route.headers, **own}.items():
        yield {
            "name": name, "in": "header", "required": False, "description": text,
            "schema": {"type": "string"},
        }  # fmt: skip


def _answer(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    content = {
        kind: {"schema": schema_of(answer, schemas, "serialization")}
        for kind, answer in route.answers.items()
    }
    path = route.path.replace("/versions/{version}", "")
    for kind, example in example_answers().get(f"{route.method} {path}", {}).items():
        content[kind]["example"] = example
    names = ["x-request-id"] + (["x-unknown-fields"] if route.kinds else [])
    return {"description": "OK", "headers": _headers(names), "content": content}


@functools.cache
def example_answers() -> dict[str, dict[str, Any]]:
    """Answers to the examples of requests by route and media type; of a stream, one event."""
    file = resources.files("atoll_client.gateway") / "example_answers.json"
    found: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _headers(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _errors(
    route: Route, schemas: dict[str, Any], refusals: dict[str, Any]
) -> dict[str, dict[str, str]]:
    """References by status to responses, which ``refusals`` gets.

    Routes of several interfaces have the errors of each.
    """
    dialects = sorted({route.dialect, *(("openai",) if route.handlers else ())})
    kind = "_".join(
        [*dialects, *(["public"] if route.public else []), *(["admin"] if route.admin else [])]
    )
    found = [schema_of(one, schemas, "serialization") for one in error_schemas(dialects)]
    schema = found[0] if len(found) == 1 else {"anyOf": found}
    references = {}
    for status, one in errors_by_status(dialects, route.public, route.admin).items():
        refusals[f"{kind}_{status}"] = {
            "description": one["description"],
            "headers": _headers(["x-request-id", *one["headers"]]),
            "content": {JSON: {"schema": schema, "examples": one["examples"]}},
        }
        references[status] = {"$ref": f"#/components/responses/{kind}_{status}"}
    return references


def _body(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    forms = [schema_of_texts(one, schemas) for one in route.kinds if issubclass(one, FormBody)]
    if route.is_upload:
        form = {"schema": forms[0], "example": route.example}
        return {"required": True, "content": {FORM: form}}
    found = [schema_of(kind, schemas, "validation") for kind in route.kinds]
    schema = found[0] if len(found) == 1 else {"anyOf": found}
    content: dict[str, Any] = {JSON: {"schema": schema, "example": route.example}}
    if forms:
        content[FORM] = {"schema": forms[0]}
    if BINARY in route.answers:
        content[BINARY] = {"schema": schema_of(bytes, schemas, "validation")}
    return {"required": True, "content": content}

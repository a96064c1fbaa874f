"""OpenAPI's description of the gateway."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema
from typing_extensions import is_typeddict

import atoll_client
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.forms import FORM
from atoll_client.gateway.core.route import DIALECTS, Route
from atoll_client.gateway.core.schemas import FormBody
from atoll_client.gateway.core.web import JSON, Reply, Request, dump
from atoll_client.gateway.described_errors import ERROR_HEADERS, error_schemas, errors_by_status
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
        "example": "all-minilm-l6-v2",
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


class _Schemas(GenerateJsonSchema):
    """Without ``"default": null``: the schemas of most fields have no null, which means absent."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        found = super().default_schema(schema)
        if found.get("default", 0) is None:
            del found["default"]
        return found


async def openapi(request: Request, context: Context, body: None) -> Reply[dict[str, Any]]:
    """The description as JSON. It takes a second to make, and is kept."""
    return Reply(await asyncio.to_thread(_described, context.routes))


@functools.cache
def _described(routes: tuple[Route, ...]) -> bytes:
    return dump(describe(routes))


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """OpenAPI 3.1 of the routes."""
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
            operation["security"] = [{"bearer": []}, {"key": []}, {}]
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
        yield {"name": name, "in": "path", "required": True, **about}


def _query_parameters(route: Route) -> Iterator[dict[str, Any]]:
    if route.query is None:
        return
    found = route.query.model_json_schema(schema_generator=_Schemas)
    for name, schema in found["properties"].items():
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
        kind: {"schema": _schema(answer, schemas, "serialization")}
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
    found = [_schema(one, schemas, "serialization") for one in error_schemas(dialects)]
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
    found = [_schema(kind, schemas, "validation") for kind in route.kinds]
    schema = found[0] if len(found) == 1 else {"anyOf": found}
    content: dict[str, Any] = {JSON: {"schema": schema, "example": route.example}}
    if route.is_upload:
        return {"required": True, "content": {FORM: content[JSON]}}
    if any(issubclass(kind, FormBody) for kind in route.kinds):
        content[FORM] = {"schema": schema}
    if BINARY in route.answers:
        content[BINARY] = {"schema": _schema(bytes, schemas, "validation")}
    return {"required": True, "content": content}


def _schema(kind: Any, schemas: dict[str, Any], mode: JsonSchemaMode) -> dict[str, Any]:
    """A type's schema; for a named type, a reference to the schema, which ``schemas`` gets."""
    found = TypeAdapter(kind).json_schema(
        ref_template="#/components/schemas/{model}", mode=mode, schema_generator=_Schemas
    )
    for name, inner in found.pop("$defs", {}).items():
        _add(schemas, name, inner)
    if not (is_typeddict(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel))):
        return found
    _add(schemas, kind.__name__, found)
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _add(schemas: dict[str, Any], name: str, schema: dict[str, Any]) -> None:
    assert schemas.setdefault(name, schema) == schema, f"two schemas are called {name}"

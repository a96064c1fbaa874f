"""OpenAPI's description of the gateway."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from typing_extensions import is_typeddict

import atoll_client
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.error_formats import (
    AnthropicError,
    KServeError,
    OllamaError,
    OpenAIError,
    TeiError,
)
from atoll_client.gateway.core.forms import FORM
from atoll_client.gateway.core.route import DIALECTS, Route
from atoll_client.gateway.core.schemas import FormBody
from atoll_client.gateway.core.web import JSON, Reply, Request, dump
from atoll_client.gateway.kserve.json_response import BINARY

_STATUSES = {
    "400": "Empty input, or a body that is not JSON; on the routes of OpenAI, "
    "Anthropic and Ollama anything that is wrong",
    "401": "API key missing or wrong", "404": "No such model",
    "408": "The body came too slowly", "413": "Body too large",
    "422": "Validation error", "424": "The model cannot do this, or failed",
    "429": "Overloaded", "500": "The model's step failed",
    "501": "The model answers in another way", "503": "Not ready",
    "504": "No answer in time", "529": "Overloaded",
}  # fmt: skip
# Statuses that do not occur in a dialect.
_LEFT_OUT = {
    "openai": {"422", "424", "501", "529"}, "anthropic": {"422", "424", "429", "501"},
    "ollama": {"422", "424", "429", "501", "529"}, "kserve": {"422", "424", "529"},
}  # fmt: skip
_ERRORS: dict[str, Any] = {
    "openai": OpenAIError, "anthropic": AnthropicError, "ollama": OllamaError,
    "kserve": KServeError,
}  # fmt: skip


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
    for route in routes:
        if not route.answers:  # it refuses all requests
            continue
        operation: dict[str, Any] = {
            "summary": route.summary,
            "tags": [DIALECTS[route.dialect]],
            "operationId": f"{route.method.lower()}{route.path.replace('/', '_')}",
            "responses": {"200": _answer(route, schemas)},
        }
        if not route.public:
            operation["security"] = [{"bearer": []}, {}]
            operation["responses"] |= _errors(route, schemas)
        parameters = [*_path_parameters(route), *_query_parameters(route)]
        if parameters:
            operation["parameters"] = parameters
        if route.kinds:
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


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", route.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(route: Route) -> Iterator[dict[str, Any]]:
    properties = {} if route.query is None else route.query.model_json_schema()["properties"]
    for name, schema in properties.items():
        yield {"name": name, "in": "query", "required": False, "schema": schema}


def _answer(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    content = {
        kind: {"schema": _schema(answer, schemas, "serialization")}
        for kind, answer in route.answers.items()
    }
    return {"description": "OK", "content": content}


def _errors(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    """Responses by status. Routes of several interfaces have the errors of each."""
    is_shared = bool(route.handlers)
    dialects = {route.dialect, *(("openai",) if is_shared else ())}
    kinds = [_ERRORS.get(dialect, TeiError) for dialect in sorted(dialects)]
    found = [_schema(kind, schemas, "serialization") for kind in dict.fromkeys(kinds)]
    schema = found[0] if len(found) == 1 else {"anyOf": found}
    content = {JSON: {"schema": schema}}
    left_out = set.intersection(*(_LEFT_OUT.get(one, {"501", "529"}) for one in dialects))
    return {
        status: {"description": text, "content": content}
        for status, text in _STATUSES.items()
        if status not in left_out
    }


def _body(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    found = [_schema(kind, schemas, "validation") for kind in route.kinds]
    schema = found[0] if len(found) == 1 else {"anyOf": found}
    content: dict[str, Any] = {JSON: {"schema": schema, "example": route.example}}
    if any(issubclass(kind, FormBody) for kind in route.kinds):
        content[FORM] = {"schema": schema}
    if BINARY in route.answers:
        content[BINARY] = {"schema": _schema(bytes, schemas, "validation")}
    return {"required": True, "content": content}


def _schema(kind: Any, schemas: dict[str, Any], mode: JsonSchemaMode) -> dict[str, Any]:
    """A type's schema; for a named type, a reference to the schema, which ``schemas`` gets."""
    found = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}", mode=mode)
    for name, inner in found.pop("$defs", {}).items():
        _add(schemas, name, inner)
    if not (is_typeddict(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel))):
        return found
    _add(schemas, kind.__name__, found)
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _add(schemas: dict[str, Any], name: str, schema: dict[str, Any]) -> None:
    assert schemas.setdefault(name, schema) == schema, f"two schemas are called {name}"

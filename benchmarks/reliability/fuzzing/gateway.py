"""Requests to the gateway's routes: their documented examples, changed, in all dialects."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from atoll_client.gateway.core.route import Route
from atoll_client.gateway.documentation import describe
from atoll_client.gateway.routes import ROUTES
from fuzzing import target
from fuzzing.forms import forms
from fuzzing.shot import HttpShot
from fuzzing.values import changed, damaged_json, json_values

_PORT = "port"
# Which models a route is for, by the beginning of its path.
_FOR: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("/v1/chat", "/v1/resp", "/v1/comp", "/v1/mess", "/api/chat", "/api/gen", "/gen", "/chat_"),
     (target.GENERATOR,)),
    (("/v1/rerank", "/v2/rerank", "/rerank", "/v1/ranking", "/v1/score"),
     (target.RERANKER, target.SEARCH)),
    (("/predict", "/v1/moderations"), (target.CLASSIFIER, target.ENTITIES)),
    (("/v1/audio",), (target.SPEECH,)),
    (("/tokenize", "/detokenize", "/decode", "/", "/invocations"), target.MODELS),
)  # fmt: skip
_NAMES = (*target.MODELS, "nobody", "", "a/b", "\u2603", "..", "x" * 3000)
_HEADERS: tuple[dict[str, str], ...] = (
    {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"},
    {"content-type": "application/json; charset=utf-16"}, {"content-type": "a/b; boundary=\"x"},
    {"content-encoding": "identity"}, {"content-encoding": "nope"}, {"accept": "text/event-stream"},
    {"accept": "image/png"}, {"x-request-id": "x" * 4000}, {"x-request-id": "\x7f"},
    {"traceparent": "00-00-00-00"}, {"tracestate": "a=b," * 300}, {"anthropic-version": "1"},
    {"x-session-id": "s" * 900}, {"x-priority": "high"}, {"x-timeout-s": "-1"}, {"timeout": "0"},
    {"grpc-timeout": "1n"}, {"expect": "100-continue"}, {"range": "bytes=0-1"},
    {"x-forwarded-for": "a,b"}, {"origin": "null"}, {"if-none-match": "*"}, {"x-unknown": "1"},
    {"inference-header-content-length": "7"}, {"authorization": "Bearer wrong"},
    {"authorization": ""}, {"authorization": "Basic e30="}, {"x-api-key": target.KEY},
)  # fmt: skip
_BOMB = gzip.compress(b'{"input":"' + b"a" * 90_000_000 + b'"}', 9)


def routes(is_admin: bool) -> st.SearchStrategy[HttpShot]:
    """Requests to all routes, or to those for administrators."""
    described = describe(ROUTES, has_key=True)
    found = [route for route in ROUTES if route.admin == is_admin and not _is_tensor_route(route)]
    bodies = [r for r in found if r.example is not None]
    # Those with a body have more that can be wrong.
    chosen = st.sampled_from(found) | st.sampled_from(bodies) | st.sampled_from(bodies)
    return chosen.flatmap(lambda route: _request(route, _fields(described, route)))


def _is_tensor_route(route: Route) -> bool:
    return route.path.startswith("/v2/models") or route.path.startswith("/v2/repo")


def _fields(described: dict[str, Any], route: Route) -> Mapping[str, Any]:
    operation = described["paths"].get(route.path, {}).get(route.method.lower(), {})
    content = operation.get("requestBody", {}).get("content", {})
    found: dict[str, Any] = {}
    for kind in content.values():
        _collect(described, kind.get("schema", {}), found)
    return found


def _collect(described: dict[str, Any], schema: dict[str, Any], found: dict[str, Any]) -> None:
    if "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    found.update(schema.get("properties", {}))
    for kind in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        _collect(described, kind, found)


@st.composite
def _request(draw: st.DrawFn, route: Route, fields: Mapping[str, Any]) -> HttpShot:
    path = draw(_path(route))
    key = target.ADMIN_KEY if route.admin else target.KEY
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    if draw(st.integers(0, 9)) > 7:
        headers |= draw(st.sampled_from(_HEADERS))
    method = draw(st.sampled_from([route.method] * 12 + ["GET", "POST", "PUT", "HEAD", "OPTIONS"]))
    if route.method == "GET" and draw(st.integers(0, 9)):
        return HttpShot(_PORT, method, path, headers)
    if "file" in fields and draw(st.booleans()):
        kind, content = draw(forms(route.path))
        return HttpShot(_PORT, method, path, headers | {"content-type": kind}, content)
    example = route.example if route.example is not None else {}
    body = draw(changed(_with_model(draw, route, example), fields))
    content = draw(damaged_json(body if not route.admin else _spared(body)))
    if draw(st.integers(0, 19)) == 19:
        encoding, content = draw(_compressed(content))
        headers["content-encoding"] = encoding
    return HttpShot(_PORT, method, path, headers, content)


def _with_model(draw: st.DrawFn, route: Route, example: Any) -> Any:
    if not isinstance(example, dict) or draw(st.integers(0, 19)) == 19:
        return example
    if route.admin:
        return example | ({"model": target.VICTIM} if "model" in example else {})
    fit = next((names for starts, names in _FOR if route.path.startswith(starts)), target.MODELS)
    if route.path == "/v1/embeddings" or "embed" in route.path:
        fit = (target.EMBEDDER, target.ENSEMBLE)
    names = _NAMES if draw(st.integers(0, 9)) == 9 else fit
    return example | {"model": draw(st.sampled_from(names))}


def _spared(body: Any) -> Any:
    """Models that are probed stay loaded: only the victim may be unloaded or replaced."""
    if isinstance(body, dict) and body.get("model") in target.MODELS:
        return body | {"model": target.VICTIM}
    return body


@st.composite
def _path(draw: st.DrawFn, route: Route) -> str:
    path = route.path
    for name in ("response_id", "file_id", "batch_id", "digest", "file", "model", "version"):
        if f"{{{name}}}" in path:
            value = draw(st.sampled_from(_PARTS) | st.sampled_from(target.MODELS))
            path = path.replace(f"{{{name}}}", value)
    if draw(st.integers(0, 14)) == 14:
        path = f"/{draw(st.sampled_from([*target.MODELS, 'nobody', '%2e%2e']))}{path}"
    if draw(st.integers(0, 14)) == 14 or (route.query is not None and draw(st.booleans())):
        path += "?" + draw(_queries(route))
    return path


_PARTS = (
    "x", "1", "-1", "%00", "%ff", "..%2f..", "%2e%2e", "a%20b", "x" * 3000, "file-" + "0" * 24,
    "{file}", "{batch}", "{response}", "{file}", "{batch}", "{response}",
    "batch_" + "0" * 24, "resp_" + "0" * 24, "9" * 40, "%F0%9F%98%80", "swagger-ui.css", "{x}",
)  # fmt: skip


@st.composite
def _queries(draw: st.DrawFn, route: Route) -> str:
    known = list(route.query.model_fields) if route.query is not None else ["a"]
    # A log that is followed has no end.
    names = [name for name in known if name != "follow"] + ["x", "", "%00"]
    values = ["", "1", "-1", "0", "9" * 30, "true", "%ff", "asc", "a" * 3000, "[]", "1e3", "x;y=z"]
    pairs = st.tuples(st.sampled_from(names), st.sampled_from(values))
    return "&".join(f"{n}={v}" for n, v in draw(st.lists(pairs, min_size=1, max_size=3)))


@st.composite
def _compressed(draw: st.DrawFn, content: bytes) -> tuple[str, bytes]:
    """A coding's name, and a body in it, in another, or damaged; now and then a bomb."""
    name = draw(st.sampled_from(["gzip", "deflate", "br", "zstd", "gzip, gzip", "x-gzip", "GZIP"]))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return name, content
    if kind == 1:
        return name, zlib.compress(content)
    if kind == 2:
        return name, gzip.compress(content)[: draw(st.integers(0, 40))]
    return ("gzip", _BOMB) if kind == 3 and draw(st.booleans()) else (name, gzip.compress(content))


def admin_socket() -> st.SearchStrategy[HttpShot]:
    """Requests of the user who runs the server, over the Unix socket, and over the admin port."""
    return st.tuples(routes(True), st.sampled_from(["socket", "admin-port"]), _prefixes()).map(
        lambda drawn: HttpShot(
            drawn[1], drawn[0].method, drawn[2] + drawn[0].path, drawn[0].headers, drawn[0].content
        )
    )


def _prefixes() -> st.SearchStrategy[str]:
    return st.sampled_from([""] * 8 + ["/keyed", "/allowed", "/x"])


__all__ = ["admin_socket", "json_values", "routes"]

"""Routes: a path, its handler, and what OpenAPI needs to know of both."""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from starlette.responses import Response

from atoll_client.gateway.core.settings import GatewaySettings
from atoll_client.gateway.core.web import Request

# The interfaces by their names in tables.
DIALECTS = {
    "openai": "OpenAI",
    "anthropic": "Anthropic",
    "ollama": "Ollama",
    "tei": "Text Embeddings Inference",
    "tgi": "Text Generation Inference",
    "kserve": "KServe",
}
# The request, the gateway's context, and the body as the model that the third parameter declares.
# The annotation of the return value declares what OpenAPI publishes: Reply[T], Events[T] or both.
Handler = Callable[[Request, Any, Any], Awaitable[Response]]


@functools.cache
def body_of(handler: Handler) -> type[BaseModel] | None:
    """The model of the JSON body that a handler takes; None if it takes none."""
    found = get_type_hints(handler)["body"]
    return None if found is type(None) else found


@functools.cache
def answers_of(handler: Handler) -> dict[str, Any]:
    """The types of a handler's responses by media type; of an event stream, that of one event."""
    found: dict[str, Any] = {}
    declared = get_type_hints(handler, include_extras=True)["return"]
    is_union = get_origin(declared) in (Union, types.UnionType)
    for one in get_args(declared) if is_union else (declared,):
        kind = get_origin(one) or one
        if kind not in (NoReturn, Response):
            # Reply[T] itself, or a class such as Text that is derived from one.
            (found[kind.media_type],) = get_args(one) or get_args(kind.__orig_bases__[0])
    return found


@dataclass(frozen=True, eq=False)
class Route:
    """One route of one dialect. Its body and responses are declared by its handler's annotations.

    Args:
        dialect: a key of ``DIALECTS``: the format of errors.
        example: a body. example_model: of the path, for which it is one.
        public: answered without an API key, and not counted.
        admin: needs the admin key, which the launcher checks, in place of an API key.
        uncounted: answered however many requests are open, but only with a key.
        takes_tensors: the body may hold binary tensors, or a file, for which there is a separate
            limit.
        is_upload: the handler reads the body itself, a form with a file that is never held whole.
        bodies: models that describe a body which the handler reads by itself.
        handlers: those that ``handler`` passes requests on to; they declare body and responses.
        query: model of the parameters behind the path.
        headers: what headers of requests mean for this route alone, by name.
        pattern: ``path`` in Starlette's syntax, if its parameters need convertors.
    """

    method: str
    path: str
    handler: Handler
    dialect: str
    summary: str
    example: Any = None
    example_model: str = "all-minilm-l6-v2"
    public: bool = False
    admin: bool = False
    uncounted: bool = False
    takes_tensors: bool = False
    is_upload: bool = False
    bodies: tuple[type[BaseModel], ...] = ()
    handlers: tuple[Handler, ...] = ()
    query: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    pattern: str = ""

    @property
    def body(self) -> type[BaseModel] | None:
        """The model of the body that the handler gets."""
        return body_of(self.handler)

    @property
    def kinds(self) -> tuple[type[BaseModel], ...]:
        """The models of every body that the route accepts."""
        found = map(body_of, self.handlers or (self.handler,))
        return self.bodies or tuple(kind for kind in found if kind is not None)

    @property
    def answers(self) -> dict[str, Any]:
        """The types of the responses by media type."""
        kinds: dict[str, list[Any]] = {}
        for handler in self.handlers or (self.handler,):
            for media_type, kind in answers_of(handler).items():
                kinds.setdefault(media_type, []).append(kind)
        return {
            media_type: functools.reduce(operator.or_, found) for media_type, found in kinds.items()
        }

    def body_limit(self, settings: GatewaySettings) -> int:
        """The limit of a body's size in bytes."""
        return settings.tensor_payload_limit if self.takes_tensors else settings.payload_limit

"""KServe's routes over HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable
from typing import Any, NoReturn

from starlette.convertors import StringConvertor, register_url_convertor

from atoll_client import errors
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.error_formats import KServeError
from atoll_client.gateway.core.route import Handler, Route
from atoll_client.gateway.core.sse import Events
from atoll_client.gateway.core.web import Reply, Request, Text, nothing, reply
from atoll_client.gateway.kserve import answers, generate, input_text
from atoll_client.gateway.kserve.compression import compressed, decompressed
from atoll_client.gateway.kserve.descriptions import as_json
from atoll_client.gateway.kserve.json_request import read_json, read_request
from atoll_client.gateway.kserve.json_response import (
    HEADER_LENGTH,
    Tensors,
    write_generated,
    write_response,
)
from atoll_client.gateway.kserve.schemas import GenerateRequest, InferRequest
from atoll_client.gateway.kserve.signature import Signature
from atoll_client.grpc_calls import Metadata
from atoll_client.kserve import Message

_NAMES = {
    "systemsharedmemory": "system shared memory", "cudasharedmemory": "CUDA shared memory",
    "logging": "the server's log settings", "trace": "the server's trace settings",
    "repository/models": "loading and unloading of models",
}  # fmt: skip
_Call = tuple[Signature, Message, float, Metadata, str]
CLOSED = "/v2/{closed}"
_CLOSED = re.compile(
    r"(?:(systemsharedmemory|cudasharedmemory|logging|repository/models)|(?:models/[^/]+/"
    r"(?:versions/[0-9]+/)?)?(trace))(?:/.*)?"
)


class _Version(StringConvertor):
    regex = "[0-9]{1,18}"


class _Closed(StringConvertor):
    """The part of a closed path after ``/v2/``."""

    regex = re.sub(r"\((?!\?)", "(?:", _CLOSED.pattern)


register_url_convertor("version", _Version())
register_url_convertor("closed", _Closed())


async def live(request: Request, context: Context, body: None) -> Text:
    """Responds as long as the gateway runs."""
    return nothing()


async def ready(request: Request, context: Context, body: None) -> Text:
    """Whether a server is reachable and has a model."""
    if not context.pool.is_ready:
        raise errors.NotReady("no server is ready")
    return nothing()


async def server(
    request: Request, context: Context, body: None
) -> Reply[answers.ServerDescription]:
    """Name, version and extensions."""
    return reply(as_json(await context.upstream.server_metadata()))


async def model_ready(request: Request, context: Context, body: None) -> Text:
    """Whether a model accepts requests."""
    if not await context.upstream.is_model_ready(_name(request), request.version):
        raise errors.MalformedRequest("Model version not ready")
    return nothing()


async def model_metadata(
    request: Request, context: Context, body: None
) -> Reply[answers.ModelDescription]:
    """A model's inputs and outputs."""
    found = await context.upstream.inquire("ModelMetadata", _name(request), request.version)
    return reply(as_json(found))


async def model_config(
    request: Request, context: Context, body: None
) -> Reply[answers.ModelConfig]:
    """A model's config."""
    found = await context.upstream.inquire("ModelConfig", _name(request), request.version)
    return reply(as_json(found.config))


async def statistics(request: Request, context: Context, body: None) -> Reply[answers.Statistics]:
    """Counts and durations of a model or of all."""
    found = await context.upstream.statistics(request.model or "", request.version)
    return reply(as_json(found))


async def index(request: Request, context: Context, body: None) -> Reply[list[answers.LoadedModel]]:
    """The models that are loaded."""
    found = await context.upstream.statistics("", "")
    return reply([
        {"name": one.name, "version": one.version, "state": "READY"} for one in found.model_stats
    ])  # fmt: skip


async def infer(
    request: Request, context: Context, body: None
) -> Reply[answers.InferResponse] | Tensors:
    """One response, as JSON or with binary tensors."""
    raw = await decompressed(request, context)
    signature = await context.upstream.signature(_name(request), request.version)
    if signature.is_decoupled:
        raise errors.UnsupportedModel(
            "HTTP end point doesn't support models with decoupled transaction policy"
            + ("; use /generate or /generate_stream" if signature.is_ours else "")
        )
    length = request.headers.get(HEADER_LENGTH)
    if length is not None and not re.fullmatch("[0-9]{1,12}", length):
        raise errors.ValidationError(
            f"{HEADER_LENGTH} is '{length[:50]}'; it must be a number of bytes"
        )
    asked = read_request(
        raw, None if length is None else int(length), signature, request.version,
        context.settings.payload_limit,
    )  # fmt: skip
    input_text.adapt(asked.message, signature)
    signature.check(asked.message)
    signature.prioritize(asked.message, request.priority)
    response = await context.upstream.infer(
        signature, asked.message, context.settings.request_timeout_s, request.metadata,
        request.session_name,
    )  # fmt: skip
    return await compressed(request, write_response(response, asked.wants_binary))


async def generate_one(
    request: Request, context: Context, body: None
) -> Reply[answers.GenerateResponse]:
    """One response, as plain JSON."""
    call, _ = await _generation(request, context)
    if not call[0].is_decoupled:
        return reply(write_generated(await context.upstream.infer(*call)))
    return reply(write_generated(await generate.only(context.upstream.exchange(*call))))


async def generate_stream(
    request: Request, context: Context, body: None
) -> Events[answers.GenerateResponse | KServeError]:
    """An event for each response."""
    call, is_plain = await _generation(request, context)
    if not call[0].is_decoupled:
        return Events(_one_event(context.upstream.infer(*call)), _event_of)
    responses = context.upstream.exchange(*call)
    return Events(generate.events(responses, are_errors_plain=is_plain), _event_of)


async def _one_event(response: Awaitable[Any]) -> AsyncIterator[answers.GenerateResponse]:
    yield write_generated(await response)


async def closed(request: Request, context: Context, body: None) -> NoReturn:
    """Refuses the parts of a server's interface that are not for clients."""
    match = _CLOSED.fullmatch(request.path_params["closed"])
    assert match is not None
    name = _NAMES[match[1] or match[2]]
    raise errors.NotOffered(f"{name}: not offered by the gateway")


async def _generation(request: Request, context: Context) -> tuple[_Call, bool]:
    """The arguments of ``Upstream``'s methods, and whether to show only the text of errors."""
    raw = await decompressed(request, context)
    signature = await context.upstream.signature(_name(request), request.version)
    found = read_json(raw, context.settings.payload_limit)
    message = generate.read_generate(found, signature, request.version)
    signature.check(message)
    signature.prioritize(message, request.priority)
    is_asked = signature.is_ours and signature.is_decoupled and generate.ask_for_kinds(message)
    timeout_s = context.settings.request_timeout_s
    call = (signature, message, timeout_s, request.metadata, request.session_name)
    return call, signature.is_ours and not is_asked


def _event_of(error: errors.AtollError) -> KServeError:
    return {"error": str(error)}


def _name(request: Request) -> str:
    assert request.model is not None
    return request.model


def _of_model(
    method: str, end: str, handler: Handler, summary: str, **rest: Any
) -> tuple[Route, ...]:
    """With the version in the path, and without."""
    takes_tensors = method == "POST"
    return tuple(
        Route(
            method, f"/v2/models/{{model}}{version}{end}", handler, "kserve", summary,
            takes_tensors=takes_tensors, pattern=f"/v2/models/{{model}}{kind}{end}", **rest,
        )
        for version, kind in (("", ""), ("/versions/{version}", "/versions/{version:version}"))
    )  # fmt: skip


_INPUT = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["A coral reef"]}
_INFER: dict[str, Any] = {
    "bodies": (InferRequest,),
    "example": {"inputs": [_INPUT]},
    "headers": {HEADER_LENGTH: "Bytes of JSON at the start of a body with binary tensors"},
}
_GENERATE: dict[str, Any] = {
    "bodies": (GenerateRequest,),
    "example": {"text_input": "A coral reef is", "parameters": {"max_tokens": 8}},
    "example_model": "smollm2-135m-instruct",
}
ROUTES: tuple[Route, ...] = (
    Route("GET", "/v2/health/live", live, "kserve", "Whether the gateway is up", public=True),
    Route("GET", "/v2/health/ready", ready, "kserve", "Whether a server is ready", public=True),
    Route("GET", "/v2", server, "kserve", "Name, version and extensions"),
    Route("GET", "/v2/models/stats", statistics, "kserve", "Statistics of all models"),
    Route("POST", "/v2/repository/index", index, "kserve", "The models that are loaded"),
    *_of_model("GET", "", model_metadata, "A model's tensors"),
    *_of_model("GET", "/ready", model_ready, "Whether a model is ready"),
    *_of_model("GET", "/config", model_config, "A model's config"),
    *_of_model("GET", "/stats", statistics, "A model's statistics"),
    *_of_model("POST", "/infer", infer, "One response of a model", **_INFER),
    *_of_model("POST", "/generate", generate_one, "One response, as plain JSON", **_GENERATE),
    *_of_model("POST", "/generate_stream", generate_stream, "Responses as events", **_GENERATE),
    *(
        Route(
            method, CLOSED, closed, "kserve", "Not offered: shared memory, settings, loads",
            pattern="/v2/{closed:closed}",
        )
        for method in ("GET", "POST")
    ),
)  # fmt: skip

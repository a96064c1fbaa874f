"""The format of errors in each interface: status and JSON body."""

from __future__ import annotations

import math
from typing import Any, Literal

from starlette.requests import HTTPConnection
from typing_extensions import TypedDict

from atoll_client import errors
from atoll_client.gateway.core.client_limits import RateLimited
from atoll_client.gateway.core.web import Reply, Request, reply

_TEI = {
    "validation": "Validation", "empty": "Empty", "backend": "Backend", "overloaded": "Overloaded",
    "unhealthy": "Unhealthy", "generation": "Backend", "not_found": "Validation",
    "incomplete_generation": "Backend",
    "timeout": "Backend", "cancelled": "Backend", "authentication": "Unauthorized",
}  # fmt: skip
_OPENAI = {
    "validation": "invalid_request_error", "empty": "invalid_request_error",
    "not_found": "invalid_request_error", "backend": "invalid_request_error",
    "authentication": "authentication_error", "overloaded": "rate_limit_error",
}  # fmt: skip
_CODES = {
    "validation": "invalid_value", "empty": "invalid_value", "not_found": "model_not_found",
    "backend": "unsupported_model", "authentication": "invalid_api_key",
    "overloaded": "rate_limit_exceeded", "unhealthy": "service_unavailable",
    "timeout": "timeout",
}  # fmt: skip
_CODES_OF_CLASSES = (
    (errors.NoRoute, "unknown_url"), (errors.MethodNotAllowed, "method_not_allowed"),
    (errors.MalformedRequest, "invalid_json"), (errors.TooLarge, "request_too_large"),
)  # fmt: skip
# Anthropic's type and status of an error, by the first class that it is of.
_ANTHROPIC: tuple[tuple[type[errors.AtollError], str, int], ...] = (
    (errors.TooLarge, "request_too_large", 413),
    (errors.ValidationError, "invalid_request_error", 400),
    (errors.UnsupportedModel, "invalid_request_error", 400),
    (errors.Unauthorized, "authentication_error", 401),
    (errors.NotFound, "not_found_error", 404),
    (errors.NoRoute, "not_found_error", 404),
    (errors.MethodNotAllowed, "invalid_request_error", 405),
    (errors.BodyTimeout, "timeout_error", 408),
    (RateLimited, "rate_limit_error", 429),
    (errors.Overloaded, "overloaded_error", 529),
    (errors.DeadlineExceeded, "timeout_error", 504),
)
# Error types that TGI calls differently.
_TGI = {"empty": "validation", "backend": "generation"}
# Triton has fewer statuses.
_KSERVE_STATUSES: dict[type[errors.AtollError], int] = {
    errors.TooLarge: 413,
    errors.ValidationError: 400, errors.GenerationError: 500, errors.UnsupportedModel: 501,
}  # fmt: skip


class OpenAIProblem(TypedDict):
    """What is wrong, with which field, and OpenAI's code for it."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(TypedDict):
    """An error of OpenAI's routes."""

    error: OpenAIProblem


class AnthropicProblem(TypedDict):
    """The kind of an error, and what is wrong."""

    type: str
    message: str


class AnthropicError(TypedDict):
    """An error of Anthropic's routes, also the event that ends a stream which fails."""

    type: Literal["error"]
    error: AnthropicProblem
    request_id: str


class TeiError(TypedDict):
    """An error of TEI's and TGI's routes."""

    error: str
    error_type: str


class KServeError(TypedDict):
    """An error of KServe's routes."""

    error: str


class OllamaError(TypedDict):
    """An error of Ollama's routes, also the last line of a stream which fails."""

    error: str


async def explain(connection: HTTPConnection, error: Exception) -> Reply[Any]:
    """The response to a request that failed with an AtollError."""
    assert isinstance(error, errors.AtollError)
    request = Request.of(connection.scope)
    request.labels["error"] = error.error_type
    dialect = request.dialect or _guess(request.path)
    headers = {}
    if isinstance(error, errors.NoRoom):
        # OpenAI's clients would send a whole upload again.
        headers["x-should-retry"] = "false"
    elif isinstance(error, errors.Overloaded | errors.NotReady):
        headers["retry-after"] = f"{math.ceil(error.retry_after_s or 1)}"
    if isinstance(error, errors.Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, errors.MethodNotAllowed):
        headers["allow"] = ", ".join(error.allowed)
    if isinstance(error, errors.BodyTimeout):
        headers["connection"] = "close"
    if dialect == "anthropic":
        found: Any = anthropic_error(error, request.request_id)
    else:
        found = body(dialect, error)
    return reply(found, headers, status(dialect, error))


def status(dialect: str, error: errors.AtollError) -> int:
    """The status of an error, as the interface's own servers would set it."""
    if dialect == "openai":
        if isinstance(error, (errors.ValidationError, errors.UnsupportedModel)) and not isinstance(
            error, errors.TooLarge
        ):
            return 400
        # OpenAI's clients would take 424 for an error of the caller.
        return 500 if isinstance(error, errors.GenerationError) else error.http_status
    if dialect == "anthropic":
        return _anthropic(error)[1]
    if dialect == "ollama":
        return _ollama_status(error)
    if dialect == "tgi" and isinstance(error, errors.EmptyInputError):
        # TGI has no status of its own for empty inputs.
        return errors.ValidationError.http_status
    if dialect == "kserve":
        kinds = _KSERVE_STATUSES.items()
        return next((code for kind, code in kinds if isinstance(error, kind)), error.http_status)
    return error.http_status


def body(dialect: str, error: errors.AtollError) -> OpenAIError | TeiError | KServeError:
    """The JSON of an error, for any interface but Anthropic's."""
    if dialect == "openai":
        return {"error": openai_problem(error)}
    if dialect in ("kserve", "ollama"):
        return {"error": str(error)}
    return typed_error(dialect, error)


def typed_error(dialect: str, error: errors.AtollError) -> TeiError:
    """The JSON of an error for TEI or TGI."""
    kind = error.error_type
    if dialect == "tei":
        return {"error": str(error), "error_type": _TEI.get(kind, "Backend")}
    prefix = "Input validation error: " if kind in ("validation", "empty") else ""
    return {"error": f"{prefix}{error}", "error_type": _TGI.get(kind, kind)}


def anthropic_error(error: errors.AtollError, request_id: str) -> AnthropicError:
    """The JSON of an error for Anthropic."""
    kind, _ = _anthropic(error)
    return {
        "type": "error", "error": {"type": kind, "message": str(error)}, "request_id": request_id,
    }  # fmt: skip


def _anthropic(error: errors.AtollError) -> tuple[str, int]:
    """Anthropic's type and status of an error."""
    if isinstance(error, errors.GenerationError):
        return "api_error", 500
    found = ((kind, code) for one, kind, code in _ANTHROPIC if isinstance(error, one))
    return next(found, ("api_error", error.http_status))


def _ollama_status(error: errors.AtollError) -> int:
    """400 for all that is wrong with a request; full is 503, as in Ollama."""
    if isinstance(error, errors.TooLarge):
        return error.http_status
    if isinstance(error, errors.ValidationError | errors.UnsupportedModel):
        return 400
    if isinstance(error, errors.GenerationError):
        return 500
    if isinstance(error, errors.NotOffered):
        return 501
    return 503 if isinstance(error, errors.Overloaded) else error.http_status


def openai_problem(error: errors.AtollError) -> OpenAIProblem:
    """An error as OpenAI describes it."""
    code = _code_of(error)
    is_model = code in ("model_not_found", "unsupported_model")
    return {
        "message": str(error),
        "type": _OPENAI.get(error.error_type, "server_error"),
        "param": "model" if is_model and error.param is None else error.param,
        "code": code,
    }


def _code_of(error: errors.AtollError) -> str | None:
    """OpenAI's code for an error."""
    if error.code is not None:
        return error.code
    found = (code for kind, code in _CODES_OF_CLASSES if isinstance(error, kind))
    return next(found, None) or _CODES.get(error.error_type)


def as_ours(error: Exception) -> errors.AtollError:
    """Any exception as an AtollError, which has a status."""
    return (
        error
        if isinstance(error, errors.AtollError)
        else errors.AtollError(f"{type(error).__name__}: {error}")
    )


def _guess(path: str) -> str:
    if "/v1/messages" in path:
        return "anthropic"
    if "/api/" in path:
        return "ollama"
    if path.startswith("/v2/") and path not in ("/v2/embed", "/v2/rerank"):
        return "kserve"
    return "openai" if "/v1/" in path or "/v2/" in path else "tei"

"""The format of errors in each interface: status and JSON body."""

from __future__ import annotations

from typing import Any

from starlette.requests import HTTPConnection
from typing_extensions import TypedDict

from atoll_client import errors
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


class TeiError(TypedDict):
    """An error of TEI's and TGI's routes."""

    error: str
    error_type: str


class KServeError(TypedDict):
    """An error of KServe's routes."""

    error: str


async def explain(connection: HTTPConnection, error: Exception) -> Reply[Any]:
    """The response to a request that failed with an AtollError."""
    assert isinstance(error, errors.AtollError)
    request = Request.of(connection.scope)
    request.labels["error"] = error.error_type
    dialect = request.dialect or _guess(request.path)
    headers = {}
    if isinstance(error, errors.Overloaded | errors.NotReady):
        headers["retry-after"] = "1"
    if isinstance(error, errors.Unauthorized):
        # Makes browsers ask for a password, which is the key.
        is_page = request.path == "/" and request.method == "GET"
        headers["www-authenticate"] = 'Basic realm="Atoll"' if is_page else "Bearer"
    if isinstance(error, errors.MethodNotAllowed):
        headers["allow"] = ", ".join(error.allowed)
    if isinstance(error, errors.BodyTimeout):
        headers["connection"] = "close"
    return reply(body(dialect, error), headers, status(dialect, error))


def status(dialect: str, error: errors.AtollError) -> int:
    """The status of an error, as the interface's own servers would set it."""
    if dialect == "openai":
        if isinstance(error, (errors.ValidationError, errors.UnsupportedModel)) and not isinstance(
            error, errors.TooLarge
        ):
            return 400
        # OpenAI's clients would take 424 for an error of the caller.
        return 500 if isinstance(error, errors.GenerationError) else error.http_status
    if dialect == "tgi" and isinstance(error, errors.EmptyInputError):
        # TGI has no status of its own for empty inputs.
        return errors.ValidationError.http_status
    if dialect == "kserve":
        kinds = _KSERVE_STATUSES.items()
        return next((code for kind, code in kinds if isinstance(error, kind)), error.http_status)
    return error.http_status


def body(dialect: str, error: errors.AtollError) -> OpenAIError | TeiError | KServeError:
    """The JSON of an error."""
    if dialect == "openai":
        return {"error": openai_problem(error)}
    if dialect == "kserve":
        return {"error": str(error)}
    return typed_error(dialect, error)


def typed_error(dialect: str, error: errors.AtollError) -> TeiError:
    """The JSON of an error for TEI or TGI."""
    kind = error.error_type
    if dialect == "tei":
        return {"error": str(error), "error_type": _TEI.get(kind, "Backend")}
    prefix = "Input validation error: " if kind in ("validation", "empty") else ""
    return {"error": f"{prefix}{error}", "error_type": _TGI.get(kind, kind)}


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
    if path.startswith("/v2/") and path not in ("/v2/embed", "/v2/rerank"):
        return "kserve"
    return "openai" if "/v1/" in path or "/v2/" in path else "tei"

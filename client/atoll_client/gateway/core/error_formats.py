"""How an error looks in each interface. One table for statuses (``errors``), one for words here."""

from __future__ import annotations

from typing import Any

from starlette.requests import HTTPConnection

from atoll_client.errors import (
    AtollError,
    BodyTimeout,
    EmptyInputError,
    GenerationError,
    MalformedRequest,
    MethodNotAllowed,
    NoRoute,
    NotReady,
    Overloaded,
    TooLarge,
    Unauthorized,
    UnsupportedModel,
    ValidationError,
)
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
    (NoRoute, "unknown_url"), (MethodNotAllowed, "method_not_allowed"),
    (MalformedRequest, "invalid_json"), (TooLarge, "request_too_large"),
)  # fmt: skip
# TGI knows no word of its own for these.
_TGI = {"empty": "validation", "backend": "generation"}
# What a Triton server says, whose statuses are fewer.
_KSERVE_STATUSES: dict[type[AtollError], int] = {
    TooLarge: 413, ValidationError: 400, GenerationError: 500, UnsupportedModel: 501,
}  # fmt: skip


async def explain(connection: HTTPConnection, error: Exception) -> Reply:
    """The reply that tells a client what was wrong, which an AtollError does."""
    assert isinstance(error, AtollError)
    request = Request.of(connection.scope)
    request.labels["error"] = error.error_type
    dialect = request.dialect or _guess(request.path)
    headers = {}
    if isinstance(error, Overloaded | NotReady):
        headers["retry-after"] = "1"
    if isinstance(error, Unauthorized):
        # Browsers ask people for a password, which is the key then.
        is_page = request.path == "/" and request.method == "GET"
        headers["www-authenticate"] = 'Basic realm="Atoll"' if is_page else "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = ", ".join(error.allowed)
    if isinstance(error, BodyTimeout):
        headers["connection"] = "close"
    return reply(body(dialect, error), headers, status(dialect, error))


def status(dialect: str, error: AtollError) -> int:
    """The status of an error, as the interface's own servers choose it."""
    if dialect == "openai":
        if isinstance(error, (ValidationError, UnsupportedModel)) and not isinstance(
            error, TooLarge
        ):
            return 400
        # A step that failed: there, 424 would be the caller's to mend.
        return 500 if isinstance(error, GenerationError) else error.http_status
    if dialect == "tgi" and isinstance(error, EmptyInputError):
        # There, an empty input is like anything else that is wrong with a request.
        return ValidationError.http_status
    if dialect == "kserve":
        kinds = _KSERVE_STATUSES.items()
        return next((code for kind, code in kinds if isinstance(error, kind)), error.http_status)
    return error.http_status


def body(dialect: str, error: AtollError) -> dict[str, Any]:
    """The JSON of an error."""
    message = str(error)
    kind = error.error_type
    if dialect == "openai":
        name = _OPENAI.get(kind, "server_error")
        code = _code_of(error)
        is_model = code in ("model_not_found", "unsupported_model")
        param = "model" if is_model and error.param is None else error.param
        return {"error": {"message": message, "type": name, "param": param, "code": code}}
    if dialect == "kserve":
        return {"error": message}
    if dialect == "tei":
        return {"error": message, "error_type": _TEI.get(kind, "Backend")}
    prefix = "Input validation error: " if kind in ("validation", "empty") else ""
    return {"error": prefix + message, "error_type": _TGI.get(kind, kind)}


def _code_of(error: AtollError) -> str | None:
    """OpenAI's word for what is wrong."""
    if error.code is not None:
        return error.code
    found = (code for kind, code in _CODES_OF_CLASSES if isinstance(error, kind))
    return next(found, None) or _CODES.get(error.error_type)


def as_ours(error: Exception) -> AtollError:
    """Any exception as one that has a status."""
    return (
        error if isinstance(error, AtollError) else AtollError(f"{type(error).__name__}: {error}")
    )


def _guess(path: str) -> str:
    if path.startswith("/v2/") and path != "/v2/rerank":
        return "kserve"
    return "openai" if "/v1/" in path or "/v2/" in path else "tei"

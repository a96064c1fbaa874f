"""How an error looks in each interface. One table for statuses (``errors``), one for words here."""

from __future__ import annotations

from typing import Any

from atoll_client.errors import (
    AtollError,
    BodyTimeout,
    EmptyInputError,
    MethodNotAllowed,
    NoRoute,
    Overloaded,
    Unauthorized,
    ValidationError,
)
from atoll_client.gateway.http import Reply, Request, dump

_TEI = {
    "validation": "Validation", "empty": "Empty", "backend": "Backend", "overloaded": "Overloaded",
    "unhealthy": "Unhealthy", "generation": "Backend", "not_found": "Validation",
    "incomplete_generation": "Backend",
    "timeout": "Backend", "cancelled": "Backend", "authentication": "Unauthorized",
}  # fmt: skip
_OPENAI = {
    "validation": "invalid_request_error", "empty": "invalid_request_error",
    "not_found": "invalid_request_error", "authentication": "authentication_error",
    "overloaded": "rate_limit_error",
}  # fmt: skip
# TGI knows no word of its own for these.
_TGI = {"empty": "validation", "backend": "generation"}


def explain(request: Request, error: AtollError) -> Reply:
    """The reply that tells a client what was wrong."""
    request.labels["error"] = error.error_type
    dialect = request.route.dialect if request.route else _guess(request.path)
    headers = {}
    if isinstance(error, Overloaded):
        headers["retry-after"] = "1"
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = ", ".join(error.allowed)
    if isinstance(error, BodyTimeout):
        headers["connection"] = "close"
    status = error.http_status
    if dialect == "tgi" and isinstance(error, EmptyInputError):
        # There, an empty input is like anything else that is wrong with a request.
        status = ValidationError.http_status
    return Reply(dump(body(dialect, error)), status, headers=headers)


def body(dialect: str, error: AtollError) -> dict[str, Any]:
    """The JSON of an error."""
    message = str(error)
    kind = error.error_type
    if dialect == "openai":
        is_model = kind == "not_found" and not isinstance(error, NoRoute)
        code = "model_not_found" if is_model else error.http_status
        name = _OPENAI.get(kind, "server_error")
        return {"error": {"message": message, "type": name, "param": None, "code": code}}
    if dialect == "tei":
        return {"error": message, "error_type": _TEI.get(kind, "Backend")}
    prefix = "Input validation error: " if kind in ("validation", "empty") else ""
    return {"error": prefix + message, "error_type": _TGI.get(kind, kind)}


def as_ours(error: Exception) -> AtollError:
    """Any exception as one that has a status."""
    return (
        error if isinstance(error, AtollError) else AtollError(f"{type(error).__name__}: {error}")
    )


def _guess(path: str) -> str:
    return "openai" if "/v1/" in path or "/v2/" in path else "tei"

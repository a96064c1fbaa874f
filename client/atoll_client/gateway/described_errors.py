"""The errors of each interface for OpenAPI: by status, with their schemas, examples and headers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from atoll_client import errors
from atoll_client.gateway.core.error_formats import (
    AnthropicError,
    KServeError,
    OllamaError,
    OpenAIError,
    TeiError,
    anthropic_error,
    body,
    status,
)

# What each means, and one as clients may get it.
_EXAMPLES: dict[str, tuple[str, errors.AtollError]] = {
    "empty": ("Empty input", errors.EmptyInputError.of("input", "cannot be empty")),
    "malformed": (
        "The body cannot be parsed",
        errors.MalformedRequest("the body is not valid JSON: unexpected end of data"),
    ),
    "invalid": (
        "A field is missing, wrong or not supported",
        errors.ValidationError.of("top_p", "is 2.0; it must be less than or equal to 1"),
    ),
    "key": (
        "API key missing or wrong", errors.Unauthorized("the API key is missing or wrong"),
    ),
    "missing": ("No such model or object", errors.NotFound("model 'other' is not served")),
    "slow": (
        "The body came too slowly", errors.BodyTimeout("the body was not complete after 30 s"),
    ),
    "large": (
        "Body too large",
        errors.TooLarge("the body has 3000000 bytes; the limit is 2000000"),
    ),
    "unsupported": (
        "The model cannot do this",
        errors.UnsupportedModel("model 'smollm2-135m-instruct' cannot embed"),
    ),
    "failed": (
        "The model's step failed",
        errors.GenerationError("the generation step failed: RuntimeError: out of memory"),
    ),
    "full": (
        "Overloaded",
        errors.Overloaded("512 requests are held; max_concurrent_requests is 512"),
    ),
    "unexpected": ("An unexpected failure", errors.AtollError("KeyError: 'name'")),
    "unready": ("Not ready, or shutting down", errors.NotReady("no server is ready")),
    "late": ("No answer in time", errors.DeadlineExceeded("Deadline Exceeded")),
}  # fmt: skip
_CLOSED = (
    "Models are not managed here", errors.NotOffered("the server has no admin key"),
)  # fmt: skip
# Probes and pages need no key and no model, but can be refused as every request.
_OF_PUBLIC_ROUTES = ("slow", "large", "unexpected", "unready")
_SCHEMAS: dict[str, Any] = {
    "openai": OpenAIError, "anthropic": AnthropicError, "ollama": OllamaError, "tei": TeiError,
    "tgi": TeiError, "kserve": KServeError,
}  # fmt: skip
_HEADERS = {
    "401": "www-authenticate", "429": "retry-after", "503": "retry-after", "529": "retry-after",
}  # fmt: skip
ERROR_HEADERS = {
    "retry-after": ("Seconds after which a further try may succeed", "integer"),
    "www-authenticate": ("The scheme of the key", "string"),
}


def error_schemas(dialects: Iterable[str]) -> list[Any]:
    """The types of the JSON of these interfaces' errors, each once."""
    return list(dict.fromkeys(_SCHEMAS[dialect] for dialect in dialects))


def errors_by_status(
    dialects: Iterable[str], is_public: bool, is_admin: bool = False
) -> dict[str, dict[str, Any]]:
    """Description, headers and examples of a route's errors by status.

    dialects: keys of ``DIALECTS``. An example has the name of the interface if there are several.
    is_public, is_admin: see ``Route``.
    """
    names = [*dialects]
    examples = {**_EXAMPLES, **({"closed": _CLOSED} if is_admin else {})}
    found: dict[str, dict[str, Any]] = {}
    for dialect in names:
        for name, (meaning, error) in examples.items():
            if is_public and name not in _OF_PUBLIC_ROUTES:
                continue
            code = str(status(dialect, error))
            one = found.setdefault(code, {"meanings": {}, "examples": {}})
            one["meanings"][meaning] = None
            called = name if len(names) == 1 else f"{name} ({dialect})"
            one["examples"][called] = {"summary": meaning, "value": _value(dialect, error)}
    return {
        code: {
            "description": "; ".join(one["meanings"]),
            "headers": [_HEADERS[code]] if code in _HEADERS else [],
            "examples": one["examples"],
        }
        for code, one in sorted(found.items())
    }


def _value(dialect: str, error: errors.AtollError) -> Any:
    if dialect == "anthropic":
        return anthropic_error(error, "6f1c7e0a")
    return body(dialect, error)

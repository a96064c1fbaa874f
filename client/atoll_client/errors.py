"""All errors that a caller can get, with the gateway's HTTP status and ``error_type`` for each.

Names and numbers are the server's; ``from_grpc`` converts a gRPC status back to an error.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import grpc

E = TypeVar("E", bound="AtollError")


class AtollError(Exception):
    """Base class: an unexpected failure while answering.

    param: the field that is wrong, if known. code: OpenAI's code for the mistake.
    retry_after_s: seconds after which a server wants to be asked again, if it says so.
    """

    http_status: ClassVar[int] = 500
    error_type: ClassVar[str] = "generation"
    retry_after_s: float | None = None

    def __init__(
        self, message: str = "", *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class ValidationError(AtollError):
    """The request is wrong. The message names the field, the value and the limit."""

    http_status = 422
    error_type = "validation"

    @classmethod
    def of(cls: type[E], field: str, problem: str, *, code: str | None = None) -> E:
        """The error of one field, whose name begins the message."""
        return cls(f"`{field}` {problem}", param=field, code=code)


class EmptyInputError(ValidationError):
    """The request has no text."""

    http_status = 400
    error_type = "empty"


class MalformedRequest(ValidationError):
    """The body cannot be parsed."""

    http_status = 400


class TooLarge(ValidationError):
    """The body exceeds the limit."""

    http_status = 413


class TooMuch(ValidationError):
    """More or longer texts than allowed."""

    http_status = 422


class Unauthorized(AtollError):
    """The API key is missing or wrong."""

    http_status = 401
    error_type = "authentication"


class NotFound(AtollError):
    """The model or route does not exist."""

    http_status = 404
    error_type = "not_found"


class NoRoute(NotFound):
    """No route has this path."""


class MethodNotAllowed(AtollError):
    """The route exists with other methods: ``allowed``. is_public: none of them needs a key."""

    http_status = 405
    error_type = "validation"

    def __init__(
        self, message: str, allowed: Sequence[str] = (), *, is_public: bool = False
    ) -> None:
        super().__init__(message)
        self.allowed, self.is_public = tuple(allowed), is_public


class NotOffered(AtollError):
    """This part of the server's interface is closed to clients."""

    http_status = 403
    error_type = "validation"


class BodyTimeout(AtollError):
    """The client did not send its whole request in time."""

    http_status = 408
    error_type = "timeout"


class UnsupportedModel(AtollError):
    """The model does not support the request: an embedder does not rerank."""

    http_status = 424
    error_type = "backend"


class GenerationError(AtollError):
    """The model's step failed."""

    http_status = 424


class Overloaded(AtollError):
    """A queue or the KV cache is full; a later try may succeed."""

    http_status = 429
    error_type = "overloaded"


class NoRoom(Overloaded):
    """What is kept has reached a limit; a later try fails too, until something is deleted."""


class NotReady(AtollError):
    """No server is ready, or the model is loading, restarting or shutting down."""

    http_status = 503
    error_type = "unhealthy"


class Unreached(NotReady):
    """The server was not reached, so the request can be sent to another one."""


class Lost(NotReady):
    """The connection ended before the answer was complete; the server may have begun to work."""


class Unloaded(NotReady):
    """The server currently accepts no requests for the model; another one may."""


class Asleep(NotReady):
    """The model was unloaded since nobody had asked for it, and can be loaded: ``model``."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"model {model!r} was unloaded while nobody asked for it; it is being loaded"
        )
        self.model = model


class DeadlineExceeded(AtollError):
    """The answer did not arrive in time. timeout_s: the caller's limit, if that has passed."""

    timeout_s: float | None = None

    http_status = 504
    error_type = "timeout"


class Cancelled(AtollError):
    """The caller disconnected or cancelled."""

    http_status = 499
    error_type = "cancelled"


# Messages of a server that is shutting down, or reloads the model; no work was begun.
_GONE = ("no available versions", "stopped accepting")
# gRPC's messages for a connection that ended, as opposed to one that was never made.
_LOST = (
    "socket closed", "reset by peer", "broken pipe", "goaway", "stream removed", "end of tcp",
)  # fmt: skip
# Triton's message for a process that has ended: an instance is named <model>_<group>_<number>.
_ENDED = re.compile(r"Stub process '(.+?)(?:_\d+_\d+)?' is not healthy")
# A server that names a longer time is asked again earlier.
_LONGEST_S = 3600.0
# The server's code for "full" and for "not ready" is UNAVAILABLE: only the text differs.
_FULL = ("are held", "queue", "kv cache", "max_concurrent_requests", "overloaded")

_BY_CODE: dict[grpc.StatusCode, type[AtollError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: ValidationError,
    grpc.StatusCode.UNAUTHENTICATED: Unauthorized,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedModel,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooLarge,
    grpc.StatusCode.INTERNAL: GenerationError,
}


def is_full(text: str) -> bool:
    """Whether the message of an UNAVAILABLE server says that it is full."""
    return any(word in text.lower() for word in _FULL)


def without_model(text: str) -> AtollError | None:
    """The error if a server's message says that it does not have the model, now or at all."""
    if any(word in text.lower() for word in _GONE):
        return Unloaded(text)
    return NotFound(text) if "unknown model" in text.lower() else None


def _named(text: str) -> str:
    """The message; if Triton says that a process has ended, the model's name is put first."""
    found = _ENDED.search(text)
    return f"the process of model {found[1]!r} has ended: {text}" if found else text


def from_grpc(code: grpc.StatusCode, details: str | None, model: str = "") -> AtollError:
    """The error for a gRPC status. model: the one that the request was sent to."""
    text = _named(details or code.name)
    lowered = text.lower()
    if (error := without_model(text)) is not None:
        return error
    if code is grpc.StatusCode.UNAVAILABLE:
        if "failed to connect" not in lowered and any(word in lowered for word in _LOST):
            what = f"process of model {model!r}" if model else "server"
            return Lost(f"the {what} is unavailable: the connection was lost ({text})")
        if "connect" in lowered:
            return Unreached(text)
        return Overloaded(text) if is_full(text) else NotReady(text)
    # A gateway is full; otherwise the message is too large.
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and is_full(text):
        return Overloaded(text)
    # A model whose process has ended answers INTERNAL until it is loaded again.
    if code is grpc.StatusCode.INTERNAL and "is not healthy" in lowered:
        return NotReady(text)
    return _BY_CODE.get(code, AtollError)(text)


def from_call(error: Any, model: str) -> AtollError:
    """The error for a call that ended with an ``AioRpcError``."""
    found = from_grpc(error.code(), error.details(), model)
    found.retry_after_s = _retry_after_s(error.trailing_metadata())
    return found


def _retry_after_s(metadata: Any) -> float | None:
    """gRPC's ``grpc-retry-pushback-ms``, or ``retry-after`` in seconds, as in HTTP."""
    given = {str(key).lower(): str(value) for key, value in metadata or ()}
    for name, unit_s in (("grpc-retry-pushback-ms", 0.001), ("retry-after", 1.0)):
        if given.get(name, "").isascii() and given.get(name, "").isdigit():
            return min(float(given[name]) * unit_s, _LONGEST_S)
    return None


_BY_TYPE: dict[str, type[AtollError]] = {
    "validation": ValidationError,
    "empty": ValidationError,
    "not_found": NotFound,
    "backend": UnsupportedModel,
    "overloaded": Overloaded,
    "unhealthy": NotReady,
    "timeout": DeadlineExceeded,
    "cancelled": Cancelled,
}


def from_stream(message: str) -> AtollError:
    """The error for the message of a stream's response, which has no code.

    Atoll's models send JSON if the request's parameter ``json_errors`` is true; Triton's own errors
    are recognized by their text.
    """
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found = json.loads(message)
        return _BY_TYPE.get(found["error_type"], GenerationError)(str(found["error"]))
    lowered = (message := _named(message)).lower()
    if (error := without_model(message)) is not None:
        return error
    if "is not healthy" in lowered or "not ready" in lowered:
        return NotReady(message)
    if "queue size" in lowered:
        return Overloaded(message)
    # The same without an id, which the request need not have.
    if lowered.startswith(("[request id:", "inference request ")):
        return ValidationError(message)
    return GenerationError(message)

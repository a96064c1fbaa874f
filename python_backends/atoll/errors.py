"""Every error a user can meet, with its Triton code, HTTP status and ``error_type``.

Raised anywhere in the package; turned into a ``TritonError`` only in ``atoll.serving``.
"""

from collections.abc import Mapping
from typing import ClassVar


class AtollError(Exception):
    """Base class: an unexpected failure while answering."""

    triton_code: ClassVar[str] = "INTERNAL"
    http_status: ClassVar[int] = 500
    error_type: ClassVar[str] = "generation"


class ValidationError(AtollError):
    """The request is wrong. The message names the field, the value and the limit."""

    triton_code = "INVALID_ARG"
    http_status = 422
    error_type = "validation"


class EmptyInputError(ValidationError):
    """The request holds no text at all."""

    http_status = 400
    error_type = "empty"


class UnsupportedModel(AtollError):
    """The checkpoint or the request asks for something this model cannot do."""

    triton_code = "UNSUPPORTED"
    http_status = 424
    error_type = "backend"


class WeightError(AtollError):
    """A tensor is missing, misshapen or left over."""

    error_type = "backend"


class ConfigError(AtollError):
    """A setting or a checkpoint's config.json cannot be used."""

    error_type = "backend"


class Overloaded(AtollError):
    """A queue or the KV cache is full; the client may retry later."""

    triton_code = "UNAVAILABLE"
    http_status = 429
    error_type = "overloaded"


class NotReady(AtollError):
    """The model is loading, restarting or shutting down."""

    triton_code = "UNAVAILABLE"
    http_status = 503
    error_type = "unhealthy"


class RankLost(NotReady):
    """A process that computes a part of the model has ended or failed; the others end with it."""


class Cancelled(AtollError):
    """The client went away or cancelled."""

    triton_code = "CANCELLED"
    http_status = 499
    error_type = "cancelled"


class GenerationError(AtollError):
    """The model produced an unusable result (NaN) or its step failed."""

    http_status = 424


_BY_TYPE: Mapping[str, type[AtollError]] = {
    kind.error_type: kind
    for kind in (
        ValidationError,
        EmptyInputError,
        UnsupportedModel,
        Overloaded,
        NotReady,
        Cancelled,
    )
}


def of_type(error_type: str) -> type[AtollError]:
    """The class for the ``error_type`` that another model has sent."""
    return _BY_TYPE.get(error_type, GenerationError)

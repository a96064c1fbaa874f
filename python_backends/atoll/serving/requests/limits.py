"""The time limit of a request."""

from __future__ import annotations

from typing import Any

from atoll.errors import ValidationError
from atoll.serving.triton import tensors

# Triton's own parameter, in microseconds; only some of its endpoints evaluate it themselves.
TIMEOUT = "timeout"


def time_limit(request: Any, parameters: dict[str, Any], most_s: float) -> float | None:
    """A request's time limit in seconds: the lesser of its ``timeout`` and ``most_s``.

    0 means no limit; in the result, None does. Removes ``timeout`` from the parameters.

    Raises:
        ValidationError: the timeout is not a number of microseconds.
    """
    given = parameters.pop(TIMEOUT, None)
    asked_s = tensors.as_int(TIMEOUT, request.timeout() if given is None else given, 0) / 1e6
    return min((limit for limit in (asked_s, most_s) if limit > 0), default=None)


def refuse_time_limit(request: Any, parameters: dict[str, Any]) -> None:
    """For models that cannot interrupt their work. Removes ``timeout`` from the parameters.

    Raises:
        ValidationError: the request has a time limit.
    """
    limit_s = time_limit(request, parameters, 0)
    if limit_s is not None:
        raise ValidationError(
            f"timeout is {limit_s:g} s; requests to this model have no time limit"
        )

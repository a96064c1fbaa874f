"""Limits of a request: its time, and the tokens of a generation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atoll.engine.limits import EngineLimits
from atoll.errors import ValidationError
from atoll.serving.triton import tensors

if TYPE_CHECKING:  # pipelines import this module, but must not import torch
    from atoll.serving.requests.sampling_options import GenerateOptions

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


def fitted(
    options: GenerateOptions,
    name: str,
    num_prompt_tokens: int,
    limits: EngineLimits,
    flags: Mapping[str, bool | None],
) -> GenerateOptions:
    """The options, with the number of new tokens and the log-probabilities that are needed.

    Raises:
        ValidationError: the prompt and ``max_tokens`` exceed ``max_total_tokens``.
    """
    room = limits.max_total_tokens - num_prompt_tokens
    asked = options.max_tokens
    if asked is not None and asked > room:
        raise ValidationError(
            f"{name} has {num_prompt_tokens} tokens and max_tokens is {asked}: together they "
            f"exceed max_total_tokens, {limits.max_total_tokens}"
        )
    needs_logprobs = (
        flags["return_logprobs"] or flags["return_cumulative_logprob"] or options.best_of > 1
    )
    sampling = dataclasses.replace(
        options.sampling,
        max_new_tokens=room if asked is None else asked,
        logprobs=options.sampling.logprobs or bool(needs_logprobs),
        prompt_logprobs=options.sampling.prompt_logprobs or bool(flags["return_prompt_logprobs"]),
    )
    return dataclasses.replace(options, sampling=sampling)

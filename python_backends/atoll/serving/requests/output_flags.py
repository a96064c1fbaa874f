"""A generation request's boolean flags, as input tensors or as request parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.engine.request import SamplingOptions
from atoll.serving.triton import tensors


@dataclass(frozen=True)
class OutputFlags:
    """What a response contains besides the text."""

    finish_reason: bool = False
    cumulative_logprob: bool = False
    logprobs: bool = False
    prompt_logprobs: bool = False
    num_input_tokens: bool = False
    num_output_tokens: bool = False
    num_cached_tokens: bool = False
    num_accepted_tokens: bool = False
    token_ids: bool = False


# Boolean inputs that may also come as request parameters.
_RETURNED = {f.name: f"return_{f.name}" for f in dataclasses.fields(OutputFlags)}
FLAGS = ("stream", "exclude_input_in_output", *_RETURNED.values())
Flags = dict[str, bool | None]


def read_flags(request: Any, parameters: Mapping[str, Any]) -> Flags:
    """All flags of a request, from input tensors or else parameters; None: not set.

    Raises:
        ValidationError: a value that is neither true nor false.
    """
    found = {name: tensors.boolean(request, name) for name in FLAGS}
    for name in FLAGS:
        if found[name] is None and parameters.get(name) is not None:
            found[name] = tensors.as_bool(name, parameters[name])
    return found


def returned_by(flags: Flags, sampling: SamplingOptions) -> OutputFlags:
    """The requested outputs; unless a flag is set, log-probabilities follow from the options."""
    wanted = {name: flags[flag] for name, flag in _RETURNED.items()}
    for name in ("logprobs", "prompt_logprobs"):
        if wanted[name] is None:
            wanted[name] = getattr(sampling, name)
    return OutputFlags(**{name: bool(value) for name, value in wanted.items()})

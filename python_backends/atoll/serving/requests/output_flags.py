"""A generation request's boolean flags, as input tensors or as request parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.serving.requests.sampling_options import GenerateOptions
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
    token_ids: bool = False


# Boolean inputs that may also come as request parameters.
_RETURN_FLAGS = tuple(f"return_{f.name}" for f in dataclasses.fields(OutputFlags))
FLAGS = ("stream", "exclude_input_in_output", *_RETURN_FLAGS)
Flags = dict[str, bool | None]


def read_flags(request: Any, parameters: Mapping[str, Any]) -> Flags:
    """All flags of a request; None: not set.

    Raises:
        ValidationError: a value that is neither true nor false.
    """
    return {name: _flag(request, parameters, name) for name in FLAGS}


def returned_by(flags: Flags, options: GenerateOptions) -> OutputFlags:
    """The requested outputs; unless a flag is set, log-probabilities follow from the options."""
    by_option = {
        "return_logprobs": options.sampling.logprobs,
        "return_prompt_logprobs": options.sampling.prompt_logprobs,
    }
    wanted = {**flags, **{k: v for k, v in by_option.items() if flags[k] is None}}
    return OutputFlags(
        **{f.name: bool(wanted[f"return_{f.name}"]) for f in dataclasses.fields(OutputFlags)}
    )


def _flag(request: Any, parameters: Mapping[str, Any], name: str) -> bool | None:
    """An input tensor, else a request parameter; None if neither is there."""
    found = tensors.boolean(request, name)
    if found is None and parameters.get(name) is not None:
        return tensors.as_bool(name, parameters[name])
    return found

"""What a prompt's length leaves of the options: tokens that fit, and log-probabilities needed."""

from __future__ import annotations

import dataclasses
from typing import Any

import fake_backend  # noqa: F401  (stands in for Triton's own module)
import pytest

from atoll.config import Settings
from atoll.engine.limits import EngineLimits
from atoll.errors import ValidationError
from atoll.serving.requests.sampling_options import GenerateOptions, fitted, read_options

LIMITS = EngineLimits(max_total_tokens=64)
FLAGS = {
    "return_logprobs": None, "return_cumulative_logprob": False, "return_prompt_logprobs": None,
}  # fmt: skip


def options(**given: Any) -> GenerateOptions:
    return read_options(
        None, given, None, Settings(), default_max_tokens=None, eos_token_ids=frozenset(),
        limits=LIMITS,
    )  # fmt: skip


def test_a_prompt_and_its_answer_may_fill_the_model() -> None:
    assert fitted(options(), "x", 60, LIMITS, FLAGS).sampling.max_new_tokens == 4
    assert fitted(options(max_tokens=4), "x", 60, LIMITS, FLAGS).sampling.max_new_tokens == 4
    assert fitted(options(max_tokens=3), "x", 60, LIMITS, FLAGS).sampling.max_new_tokens == 3
    with pytest.raises(ValidationError, match="x has 60 tokens and max_tokens is 5.*exceed.* 64$"):
        fitted(options(max_tokens=5), "x", 60, LIMITS, FLAGS)


def test_an_encoder_decoders_answer_may_have_a_limit_of_its_own() -> None:
    limits = dataclasses.replace(LIMITS, max_answer_tokens=9)
    assert fitted(options(), "x", 20, limits, FLAGS).sampling.max_new_tokens == 9
    assert fitted(options(), "x", 60, limits, FLAGS).sampling.max_new_tokens == 4
    with pytest.raises(ValidationError, match="max_tokens is 10; .* answers have at most 9 tokens"):
        fitted(options(max_tokens=10), "x", 20, limits, FLAGS)


def test_an_encoder_decoders_files_may_say_how_long_answers_are() -> None:
    """max_length counts what the decoder is given; a request that says something else has it."""
    limits = dataclasses.replace(LIMITS, max_length=12)

    def length(num_given: int, **given: Any) -> int:
        asked = read_options(
            None, given, None, Settings(), default_max_tokens=16, eos_token_ids=frozenset(),
            limits=limits,
        )  # fmt: skip
        return fitted(asked, "x", 20, limits, FLAGS, num_given).sampling.max_new_tokens

    assert [length(1), length(2), length(1, max_tokens=20)] == [11, 10, 20]
    assert length(1, max_tokens=None) == 44
    decoder = dataclasses.replace(limits, max_length=None)
    assert fitted(options(), "x", 20, decoder, FLAGS).sampling.max_new_tokens == 44


@pytest.mark.parametrize(
    ("given", "flags", "needed"),
    [
        ({}, {}, (False, False)),
        ({}, {"return_logprobs": True}, (True, False)),
        ({}, {"return_cumulative_logprob": True}, (True, False)),
        ({}, {"return_prompt_logprobs": True}, (False, True)),
        ({"logprobs": True}, {}, (True, False)),
        # The best of several answers is the likeliest.
        ({"best_of": 2, "temperature": 1.0}, {}, (True, False)),
    ],
)
def test_log_probabilities_are_computed_where_they_are_needed(
    given: dict[str, Any], flags: dict[str, bool], needed: tuple[bool, bool]
) -> None:
    sampling = fitted(options(**given), "x", 6, LIMITS, {**FLAGS, **flags}).sampling
    assert (sampling.logprobs, sampling.prompt_logprobs) == needed

"""Which requests search for their answers, with how many beams, and what they may not ask for."""

from __future__ import annotations

import dataclasses
from typing import Any

import fake_backend  # noqa: F401  (stands in for Triton's own module)
import pytest

from atoll.config import Settings
from atoll.engine.limits import EngineLimits
from atoll.errors import ValidationError
from atoll.serving.requests.sampling_options import GenerateOptions, read_options

LIMITS = EngineLimits(max_total_tokens=64, vocab_size=96, max_beams=6)
FILES = {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 3}
SEARCHING = dataclasses.replace(LIMITS, search=FILES)
CHOICE = {"guided_choice": '["a"]'}


def options(limits: EngineLimits, is_conversation: bool = False, **given: Any) -> GenerateOptions:
    return read_options(
        None, given, None, Settings(), default_max_tokens=None, eos_token_ids=frozenset(),
        limits=limits, is_conversation=is_conversation,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "given", "width", "num_answers"),
    [
        (LIMITS, {}, 1, 1),
        (LIMITS, {"num_beams": "5"}, 5, 1),
        (LIMITS, {"num_beams": 5, "num_return_sequences": 4, "seed": 3}, 5, 4),
        (LIMITS, {"use_beam_search": True, "n": 3}, 3, 3),
        (LIMITS, {"use_beam_search": True, "n": 2, "best_of": 3}, 3, 2),
        (LIMITS, {"use_beam_search": "true"}, 1, 1),
        (LIMITS, {"use_beam_search": False, "length_penalty": 1, "early_stopping": False}, 1, 1),
        (SEARCHING, {}, 4, 1),
        (SEARCHING, {"temperature": 0, "n": 2}, 4, 2),
        (SEARCHING, {"num_beams": 1}, 1, 1),
        (SEARCHING, {"use_beam_search": False}, 1, 1),
        (SEARCHING, {"use_beam_search": True}, 4, 1),
        (SEARCHING, {"temperature": 0.7}, 1, 1),
        (SEARCHING, {"top_k": 5}, 1, 1),
        (SEARCHING, CHOICE, 1, 1),
        (SEARCHING, {"watermark": True}, 1, 1),
        (SEARCHING, {"is_conversation": True}, 1, 1),
    ],
)
def test_who_searches(
    limits: EngineLimits, given: dict[str, Any], width: int, num_answers: int
) -> None:
    found = options(limits, **given)
    assert (found.sampling.num_beams, found.n, found.best_of) == (width, num_answers, num_answers)


def test_what_the_files_say_goes_with_their_search() -> None:
    sampling = options(SEARCHING).sampling
    assert (sampling.length_penalty, sampling.early_stopping) == (2.0, True)
    assert sampling.no_repeat_ngram_size == 3
    own = options(SEARCHING, num_beams=2, length_penalty=-0.5, early_stopping="never").sampling
    assert (own.num_beams, own.length_penalty, own.early_stopping) == (2, -0.5, "never")
    assert own.no_repeat_ngram_size == 3
    greedy = options(SEARCHING, num_beams=1).sampling
    assert (greedy.length_penalty, greedy.no_repeat_ngram_size) == (1.0, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_beams": 7}, "num_beams is 7; the most allowed is 6"),
        ({"num_beams": 0}, "num_beams is 0; the least allowed is 1"),
        ({"num_beams": 2, "n": 3}, "n is 3; the most allowed is 2"),
        ({"num_beams": 3, "best_of": 2}, "best_of is 2, and num_beams is 3"),
        ({"num_beams": 2, "use_beam_search": False}, "num_beams is 2, and use_beam_search is fals"),
        ({"num_beams": 2, "do_sample": True}, "num_beams is 2, which does not go with sampling"),
        ({"use_beam_search": True, "n": 2, "top_p": 0.5}, "num_beams is 2, .* with sampling"),
        ({"num_beams": 2, **CHOICE}, "num_beams is 2, which does not go with guided_choice"),
        ({"num_beams": 2, "watermark": True}, "num_beams is 2, which does not go with watermark"),
        ({"num_beams": 2, "is_conversation": True}, "num_beams is 2, .* a conversation"),
        ({"length_penalty": 2.0}, "length_penalty is 2.0, which is for a beam search"),
        ({"early_stopping": True}, "early_stopping is True, which is for a beam search"),
        ({"num_beams": 2, "length_penalty": 11}, "length_penalty is 11.*; the most allowed is 10"),
        ({"num_beams": 2, "early_stopping": "soon"}, "'soon'; expected true or false or 'never'"),
        ({"forced_eos_token_id": 96}, "forced_eos_token_id is 96"),
        (
            {"num_beams": 2, "stop_token_ids": [5] * 65},
            "stop_token_ids has 65 ids; .* allowed is 64",
        ),
    ],
)
def test_what_does_not_go_with_beams_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        options(LIMITS, **given)


def test_recurrent_layers_have_no_beams() -> None:
    recurrent = dataclasses.replace(LIMITS, max_beams=1, has_states=True)
    with pytest.raises(ValidationError, match="num_beams is 2; the model has recurrent layers"):
        options(recurrent, num_beams=2)

"""Options of tokens that an answer may not have, with those of the checkpoint's files."""

from __future__ import annotations

from typing import Any

import fake_backend  # noqa: F401  (stands in for Triton's own module)
import pytest

from atoll.config import Settings
from atoll.engine.limits import EngineLimits
from atoll.engine.request import SamplingOptions
from atoll.errors import ValidationError
from atoll.serving.requests.sampling_options import read_options

LIMITS = EngineLimits(
    vocab_size=96, banned_tokens=(90,), bad_words=((1, 2),), begin_suppress_tokens=(3,),
    forced_eos_token_id=7,
)  # fmt: skip


def read(**given: Any) -> SamplingOptions:
    return read_options(
        None, given, None, Settings(), default_max_tokens=16, eos_token_ids=frozenset({7}),
        limits=LIMITS,
    ).sampling  # fmt: skip


def test_the_files_rules_are_those_of_every_request() -> None:
    found = read()
    assert found.logit_bias == ((90, float("-inf")),)
    assert (found.bad_words, found.begin_suppress_tokens) == (((1, 2),), (3,))
    assert found.forced_eos_token_id == 7
    assert read(ignore_eos=True).forced_eos_token_id is None
    assert read(forced_eos_token_id=5).forced_eos_token_id == 5


def test_a_requests_come_besides() -> None:
    found = read(
        bad_words_ids="[[5], [6, 8, 9], [7]]", suppress_tokens=[90, 11], begin_suppress_tokens=[12],
        logit_bias={"4": 1},
    )  # fmt: skip
    never = [token for token, amount in found.logit_bias if amount == float("-inf")]
    # What ends an answer is no bad word.
    assert never == [90, 5, 11] and (4, 1.0) in found.logit_bias
    assert found.bad_words == ((1, 2), (6, 8, 9))
    assert found.begin_suppress_tokens == (3, 12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bad_words_ids": [5]}, r"bad_words_ids is \[5\]; expected a list of lists"),
        ({"bad_words_ids": [[]]}, "none empty"),
        ({"bad_words_ids": [[5], [96]]}, r"bad_words_ids\[1\] is 96"),
        ({"bad_words_ids": [[5]] * 1001}, "bad_words_ids has 1001 words; at most 1000"),
        ({"suppress_tokens": 5}, "suppress_tokens is 5; expected a list of ids"),
        ({"begin_suppress_tokens": [-1]}, "begin_suppress_tokens is -1"),
        ({"forced_eos_token_id": 96}, "forced_eos_token_id is 96"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        read(**given)

"""A grammar after an answer's reasoning: what is allowed before, between and behind the marks."""

from __future__ import annotations

import numpy as np
import pytest

from atoll.errors import ValidationError
from atoll.sampling.after_reasoning import AfterReasoning, DelayedMatcher
from atoll.sampling.grammar import Grammar, GrammarCompiler
from atoll.text.reasoning import ReasoningMarks
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve

VOCAB = 49152
# Special tokens of this vocabulary stand for those of models that reason.
START, BRIDGE = "<repo_name>", "<file_sep>go<file_sep>"
TAGS = ReasoningMarks(START, "</think>")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(resolve("HuggingFaceTB/SmolLM2-135M-Instruct"))


@pytest.fixture(scope="module")
def digits(tokenizer: Tokenizer) -> Grammar:
    return GrammarCompiler(tokenizer, VOCAB).compile("regex", "[0-9]{2}")


def _allowed(matcher: DelayedMatcher) -> set[int]:
    bitmask = np.zeros((2, VOCAB // 32), np.int32)
    matcher.fill(bitmask, 1)
    assert not bitmask[0].any()
    return set(np.flatnonzero(np.unpackbits(bitmask[1].view(np.uint8), bitorder="little")).tolist())


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(("marks", "state", "text"), [
    (TAGS, "closed", "42"),
    (TAGS, "", "42"),
    (TAGS, "", f"{START}42 or more</think>42"),
    (TAGS, "open", "42 or more</think>42"),
    (ReasoningMarks(START, "</think>", begins_inside=True), "", "42 or</think>42"),
    (ReasoningMarks(f"{START}a", "</think>", BRIDGE), "", f"{START}a42</think>{BRIDGE}42"),
    (ReasoningMarks(f"{START}a", "</think>", BRIDGE), "closed", "42"),
    (ReasoningMarks("<no token>", "</think>"), "", "42"),
])  # fmt: skip
def test_the_answer_follows_the_grammar_behind_the_reasoning(
    tokenizer: Tokenizer, digits: Grammar, marks: ReasoningMarks, state: str, text: str
) -> None:
    grammar = AfterReasoning(digits, tokenizer, marks, state)
    matcher = grammar.matcher()
    (start,), end = _ids(tokenizer, START), tokenizer.eos_token_ids
    ids = _ids(tokenizer, text)
    for place, token_id in enumerate(ids):
        allowed = _allowed(matcher)
        assert token_id in allowed and not matcher.is_done and not allowed & end
        left = len(ids) - place
        if left <= 2:  # the digits, the first of which may be replaced by reasoning
            assert len(allowed - {start}) <= 10 + 100
        matcher.advance(token_id)
    assert _allowed(matcher) == set(end) and grammar.vocab_size == VOCAB
    with pytest.raises(ValidationError, match="within its grammar"):
        matcher.advance(ids[-1])


def test_what_is_forced_has_no_alternative(tokenizer: Tokenizer, digits: Grammar) -> None:
    marks = ReasoningMarks(START, "</think>", BRIDGE)
    matcher = AfterReasoning(digits, tokenizer, marks, "").matcher()
    assert _allowed(matcher) == set(_ids(tokenizer, START))
    with pytest.raises(ValidationError, match="within its grammar"):
        matcher.advance(_ids(tokenizer, "a")[0])
    for token_id in _ids(tokenizer, f"{START}</think>"):
        matcher.advance(token_id)
    for token_id in _ids(tokenizer, BRIDGE):
        assert _allowed(matcher) == {token_id}
        matcher.advance(token_id)

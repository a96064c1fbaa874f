"""What each token of a prompt is of its text: they add up to it, whatever is done to the text."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_families import FAMILIES, family
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors

from atoll.text.model_quirks import split_sequences
from atoll.text.tokenizer import Tokenizer

TEXTS = st.text("awordthe é東京😀 .,'\n<s>", max_size=20)


@functools.cache
def made(name: str) -> Tokenizer:
    return family(name)[0]


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(text=TEXTS, adds=st.booleans())
def test_shares_add_up(name: str, text: str, adds: bool) -> None:
    tokenizer = made(name)
    found = tokenizer.shares(text, adds)
    assert found is not None and found[0] == tokenizer.encode(text, adds)
    if found[0][1:]:
        assert "".join(found[1]) == text and len(found[1]) == len(found[0])


def test_tokens_that_are_added_are_nothing_of_it() -> None:
    tokenizer = made("llama")
    token = tokenizer.core.token_to_id
    ids, texts = tokenizer.shares("the word</s>a") or ([], [])
    assert ids[0] == token("<s>") and texts[0] == ""
    assert texts[ids.index(token("</s>"))] == "</s>"
    ids, texts = tokenizer.shares("a東") or ([], [])
    assert texts[-3:] == ["東"[:0], "", "東"] or texts[-1] == "東"


def test_a_text_that_is_changed_before_it_is_tokenized() -> None:
    """Lower case, accents and spaces at the ends are gone in the tokens, not in the text."""
    core = RustTokenizer(models.WordLevel({"<unk>": 0, "hello": 1, "world": 2, "<e>": 3}, "<unk>"))
    core.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(),
         normalizers.Strip()]
    )  # fmt: skip
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="$A <e>", special_tokens=[("<e>", 3)]
    )
    tokenizer = Tokenizer(core, {}, {}, frozenset())
    assert tokenizer.shares("  Hêllo   WORLD \n") == ([1, 2, 3], ["  Hêllo", "   WORLD \n", ""])


def test_texts_with_marks_for_the_tokenizer_have_no_shares() -> None:
    tokenizer = made("byte-level")
    marked: Any = Tokenizer(tokenizer.core, {}, {}, frozenset(), split_sequences)
    assert marked.shares("a") is None

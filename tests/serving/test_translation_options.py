"""src_lang, tgt_lang and forced_bos_token_id of a request: what encoder and decoder are given."""

from __future__ import annotations

import dataclasses
from typing import Any

import fake_backend  # noqa: F401  (stands in for Triton's own module)
import pytest
from tiny.bart import FIRST, START, VOCAB, write_translator
from tiny.tokenizer import write_tokenizer

from atoll.config import Settings
from atoll.engine.limits import EngineLimits
from atoll.errors import ValidationError
from atoll.serving.requests.prompts import Prompt, PromptEncoder
from atoll.serving.requests.sampling_options import GenerateOptions, read_options
from atoll.text.tokenizer import Tokenizer

LIMITS = EngineLimits(max_input_tokens=64, vocab_size=VOCAB, decoder_start_token_id=START)
TEXT = Prompt(text="ab", num_characters=2)
ENGLISH, FRENCH, END = 96, 97, 2


def options(**given: Any) -> GenerateOptions:
    return read_options(
        None, given, None, Settings(), default_max_tokens=None, eos_token_ids=frozenset(),
        limits=LIMITS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """Of a translator, and of a model without languages."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("translator", "plain")}
    write_translator(folders["translator"])
    write_tokenizer(folders["plain"])
    (folders["plain"] / "config.json").write_text('{"model_type": "t5", "vocab_size": 96}')
    return {name: Tokenizer.load(folder) for name, folder in folders.items()}


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ({}, [ENGLISH, 4, 5, END]),
        ({"src_lang": "fra_Latn"}, [FRENCH, 4, 5, END]),
        ({"src_lang": "fra_Latn", "truncate": 3}, [FRENCH, 5, END]),
        ({"add_special_tokens": False}, [4, 5]),
        ({"add_special_tokens": False, "truncate": 1}, [5]),
    ],
)
def test_texts_are_framed_in_their_language(
    tokenizers: dict[str, Tokenizer], given: dict[str, Any], ids: list[int]
) -> None:
    encoder = PromptEncoder(tokenizers["translator"], None, LIMITS)
    assert encoder.encode(TEXT, options(**given)).ids == ids


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ({}, (START,)),
        ({"tgt_lang": "fra_Latn"}, (START, FRENCH)),
        ({"forced_bos_token_id": 7}, (START, 7)),
        ({"forced_bos_token_id": "7"}, (START, 7)),
    ],
)
def test_answers_begin_with_their_language(
    tokenizers: dict[str, Tokenizer], given: dict[str, Any], start: tuple[int, ...]
) -> None:
    encoder = PromptEncoder(tokenizers["translator"], None, LIMITS)
    assert encoder.answer_start(options(**given)) == start
    forced = dataclasses.replace(LIMITS, forced_bos_token_id=FIRST)
    encoder = PromptEncoder(tokenizers["translator"], None, forced)
    assert encoder.answer_start(options(**given)) == (start if given else (START, FIRST))


def test_mbart_starts_with_the_language(tokenizers: dict[str, Tokenizer]) -> None:
    plain = tokenizers["translator"]
    assert plain.languages is not None
    mbart = dataclasses.replace(plain.languages, starts=True, is_behind=True)
    encoder = PromptEncoder(dataclasses.replace(plain, languages=mbart), None, LIMITS)
    assert encoder.answer_start(options(tgt_lang="fra_Latn")) == (FRENCH,)
    assert encoder.answer_start(options(forced_bos_token_id=7)) == (START, 7)
    assert encoder.encode(TEXT, options(src_lang="fra_Latn")).ids == [4, 5, END, FRENCH]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"src_lang": "fr"}, "src_lang is 'fr', .* 2 languages; near it: fra_Latn"),
        ({"tgt_lang": "fr"}, "tgt_lang is 'fr', .* 2 languages; near it: fra_Latn"),
        ({"tgt_lang": "fra_Latn", "forced_bos_token_id": 7}, "expected one of them"),
        ({"src_lang": "fra_Latn", "truncate": 2}, "truncate is 2; .* take 2 tokens"),
        ({"src_lang": "fra_Latn", "add_special_tokens": False}, "add_special_tokens is false"),
        ({"forced_bos_token_id": VOCAB}, "forced_bos_token_id"),
    ],
)
def test_what_cannot_be_is_refused(
    tokenizers: dict[str, Tokenizer], given: dict[str, Any], message: str
) -> None:
    encoder = PromptEncoder(tokenizers["translator"], None, LIMITS)
    with pytest.raises(ValidationError, match=message):
        found = options(**given)
        encoder.answer_start(found)
        encoder.encode(TEXT, found)


def test_models_without_languages_refuse_them(tokenizers: dict[str, Tokenizer]) -> None:
    decoder = dataclasses.replace(LIMITS, decoder_start_token_id=None)
    encoder = PromptEncoder(tokenizers["plain"], None, decoder)
    assert encoder.answer_start(options()) == ()
    for name in ("src_lang", "tgt_lang"):
        with pytest.raises(ValidationError, match=f"{name} is set, but .* has no languages"):
            encoder.answer_start(options(**{name: "fra_Latn"}))
            encoder.encode(TEXT, options(**{name: "fra_Latn"}))
    with pytest.raises(ValidationError, match="forced_bos_token_id is set, but .* no encoder-deco"):
        encoder.answer_start(options(forced_bos_token_id=7))


def test_ids_have_their_language_in_them(tokenizers: dict[str, Tokenizer]) -> None:
    encoder = PromptEncoder(tokenizers["translator"], None, LIMITS)
    assert encoder.encode(Prompt(input_ids=(5, 6)), options()).ids == [5, 6]
    with pytest.raises(ValidationError, match="src_lang is 'fra_Latn', .* not with input_ids"):
        encoder.encode(Prompt(input_ids=(5, 6)), options(src_lang="fra_Latn"))

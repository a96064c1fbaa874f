"""The text of each token, for every kind of tokenizer: they add up to what transformers decodes."""

from __future__ import annotations

import codecs
import functools
import os.path
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_families import FAMILIES, as_bytes, family

from atoll.text.answer import AnswerText
from atoll.text.detokenizer import Detokenizer
from atoll.text.stop_strings import StopStrings
from atoll.text.tokenizer import Tokenizer

_MARK = "\ufffd"
each_family = pytest.mark.parametrize("name", FAMILIES)
few = settings(max_examples=25, deadline=None, derandomize=True)

codecs.register_error("bytewise", lambda error: (_MARK * (error.end - error.start), error.end))  # type: ignore[attr-defined]


@functools.cache
def made(name: str) -> tuple[Tokenizer, Any]:
    return family(name)


def ids_of(name: str) -> st.SearchStrategy[list[int]]:
    """Any tokens, words and special ones more often than bytes; ids beyond the vocabulary."""
    size = made(name)[0].vocab_size
    return st.lists(
        st.one_of(st.integers(0, size + 2), st.integers(max(size - 60, 0), size - 1)), max_size=24
    )


def texts_of(answer: AnswerText, ids: list[int]) -> list[str]:
    """A text for each token, up to a stop string."""
    found = []
    for token_id in ids:
        found += answer.push(token_id)
        if answer.stop_string is not None:
            break
    return found + answer.finish()


def answer_text(
    tokenizer: Tokenizer,
    prompt: list[int] | None = None,
    skip: bool = True,
    stops: StopStrings | None = None,
) -> AnswerText:
    detokenizer = Detokenizer(tokenizer, prompt or [], skip)
    return AnswerText(detokenizer, stops or StopStrings([]), tokenizer.cleans_up)


def whole(name: str, ids: list[int], skip: bool) -> str:
    """transformers' text, but a wrong byte leaves the characters of its row as they are."""
    ours, theirs = made(name)
    ids = [i for i in ids if ours.core.id_to_token(i) is not None]
    if skip:
        added = ours.core.get_added_tokens_decoder()
        ids = [i for i in ids if i not in added or not added[i].special]
    if "<0x00>" in ours.core.get_vocab():
        tokens = [(i, ours.core.id_to_token(i)) for i in ids]
        row = "".join(token if token[:3] == "<0x" else f"\0{i}\0" for i, token in tokens)
        spelled = re.findall(r"<0x..>|\d+", re.sub(r"(?:<0x..>)+", _repaired, row))
        ids = [ours.core.token_to_id(s) if s[0] == "<" else int(s) for s in spelled]
    return str(theirs.decode(ids, skip_special_tokens=skip))


def _repaired(row: re.Match[str]) -> str:
    data = bytes.fromhex(row[0].replace("<0x", "").replace(">", ""))
    return "".join(f"<0x{byte:02X}>" for byte in data.decode(errors="bytewise").encode())


@each_family
@few
@given(data=st.data(), skip=st.booleans())
def test_token_texts_add_up_to_the_text(name: str, data: st.DataObject, skip: bool) -> None:
    """All of a Llama's tokens but the last were blank; a broken byte took spaces from words."""
    ids = data.draw(ids_of(name))
    found = texts_of(answer_text(made(name)[0], skip=skip), ids)
    assert len(found) == len(ids)
    assert "".join(found) == whole(name, ids, skip)


@pytest.mark.parametrize("name", [name for name in FAMILIES if "cleaned" not in name])
@few
@given(data=st.data(), skip=st.booleans())
def test_after_a_prompt(name: str, data: st.DataObject, skip: bool) -> None:
    """The text behind a prompt is what the whole has more than the prompt."""
    prompt, ids = data.draw(ids_of(name)), data.draw(ids_of(name))
    before, both = whole(name, prompt, skip), whole(name, prompt + ids, skip)
    text = "".join(texts_of(answer_text(made(name)[0], prompt, skip), ids))
    # A character that begins in the prompt stands where U+FFFD stood.
    shared = len(os.path.commonprefix([before, both]))
    assert both.endswith(text) and set(before[shared:]) <= {_MARK}
    assert len(both) - len(text) == (shared if len(both) > shared else len(both))


@each_family
@few
@given(data=st.data(), min_tokens=st.integers(0, 8), include=st.booleans())
def test_cut_at_a_stop_string(
    name: str, data: st.DataObject, min_tokens: int, include: bool
) -> None:
    """Each token keeps its text up to the stop string, also where one lies within it, or over
    several; one that ends within the first ``min_tokens`` does not count."""
    tokenizer = made(name)[0]
    ids = data.draw(ids_of(name))
    uncut = texts_of(answer_text(tokenizer), ids)
    stops = data.draw(st.lists(st.text("awordten ,.'é\ufffd", min_size=1, max_size=3), max_size=3))
    answer = answer_text(tokenizer, stops=StopStrings(stops, include, min_tokens))
    found = texts_of(answer, ids)
    end = cut(uncut, stops, include, min_tokens)
    assert (answer.stop_string is None) == (end is None)
    text = "".join(uncut)
    assert "".join(found) == text[:end]
    assert "".join(found) != text or found == uncut[: len(found)] or end is not None
    lengths = [len(piece) for piece in uncut[: len(found)]]
    for index, piece in enumerate(found):
        at = sum(lengths[:index])
        assert piece == text[:end][at : at + lengths[index]]


def cut(uncut: list[str], stops: list[str], include: bool, min_tokens: int) -> int | None:
    """Where the text ends, searched from the beginning after every token."""
    for count in range(min_tokens + 1, len(uncut) + 1):
        before, text = len("".join(uncut[: count - 1])), "".join(uncut[:count])
        hits = [
            (m.start(1), -len(stop))
            for stop in stops
            for m in re.finditer(f"(?=({re.escape(stop)}))", text)
            if m.end(1) > before
        ]
        if hits:
            at, size = min(hits)
            return at - size if include else at
    return None


@each_family
@few
@given(data=st.data())
def test_bytes_are_the_tokens_own(name: str, data: st.DataObject) -> None:
    """A piece of a character was U+FFFD, with that sign's bytes."""
    tokenizer, theirs = made(name)
    vocabulary = tokenizer.vocabulary
    ids = [i for i in data.draw(ids_of(name)) if not vocabulary.is_special(i)]
    answer, found = answer_text(tokenizer, skip=False), []
    for token_id in ids:
        found.append(vocabulary.token_bytes(token_id, answer.is_at_start))
        answer.push(token_id)
        assert vocabulary.shown(token_id).encode() == vocabulary.token_bytes(token_id) or (
            vocabulary.shown(token_id).startswith("bytes:\\x")
        )
    if name.startswith("suffixed"):  # its words end in a space that the last has not
        return
    errors = "replace" if vocabulary.is_byte_level else "bytewise"
    uncleaned = AnswerText(Detokenizer(tokenizer, [], False), StopStrings([]), False)
    assert b"".join(found).decode(errors=errors) == "".join(texts_of(uncleaned, ids))


@pytest.mark.parametrize(("name", "spell"), [
    ("byte-level", lambda data: [as_bytes(bytes([b])) for b in data]),
    ("llama", lambda data: [f"<0x{b:02X}>" for b in data]),
])  # fmt: skip
def test_a_character_that_begins_in_the_prompt(name: str, spell: Any) -> None:
    tokenizer = made(name)[0]

    def ids(data: bytes) -> list[int]:
        return [tokenizer.core.token_to_id(token) for token in spell(data)]

    euro = "€".encode()
    a = tokenizer.core.token_to_id("a")
    assert texts_of(answer_text(tokenizer, [a, *ids(euro[:2])]), ids(euro[2:])) == ["€"]
    # It does not go on: the prompt's U+FFFD is the prompt's.
    assert texts_of(answer_text(tokenizer, [a, *ids(euro[:2])]), [a]) == ["a"]
    assert texts_of(answer_text(tokenizer, [a, *ids(euro[:1])]), ids(euro[:1])) == [_MARK]
    assert texts_of(answer_text(tokenizer, ids(euro[:1])), []) == []


def test_words_keep_their_spaces_behind_a_broken_byte() -> None:
    """The spaces of up to eight words vanished."""
    tokenizer = made("llama")[0]
    tokens = ["a", *(f"<0x{b:02X}>" for b in "東".encode()), "<0xE6>", *["▁word"] * 12]
    ids = [tokenizer.core.token_to_id(token) for token in tokens]
    assert "".join(texts_of(answer_text(tokenizer), ids)) == "a東" + _MARK + " word" * 12


def test_names_of_tokens_that_are_no_characters() -> None:
    vocabulary = made("llama")[0].vocabulary
    token = made("llama")[0].core.token_to_id
    assert vocabulary.shown(token("<0xE6>")) == "bytes:\\xe6"
    assert vocabulary.shown(token("<0x41>")) == "A"
    assert vocabulary.shown(token("▁word")) == " word"
    assert vocabulary.shown(token("▁word"), True) == "word"
    assert vocabulary.shown(token("</s>")) == "</s>"
    assert vocabulary.shown(10**6) == "" and vocabulary.token_bytes(10**6) == b""

"""Text from tokens as they come, against the whole decoded at once."""

import random

import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

from atoll.text.detokenizer import Detokenizer
from atoll.text.tokenizer import Tokenizer

_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
# Where each byte stands in that alphabet, as GPT-2 has it.
_VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]


def _tokenizer() -> Tokenizer:
    """One token for each byte."""
    core = RustTokenizer(models.BPE({c: i for i, c in enumerate(_ALPHABET)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return Tokenizer(core, {}, {}, frozenset())


TOKENIZER = _tokenizer()


def _ids(data: bytes) -> list[int]:
    shown = [chr(b) if b in _VISIBLE else chr(256 + _HIDDEN.index(b)) for b in data]
    return [_ALPHABET.index(c) for c in shown]


def pieces(data: bytes) -> list[str]:
    """What each byte, and the end, gives out."""
    detokenizer = Detokenizer(TOKENIZER, _ids(b"a prompt"))
    return [*map(detokenizer.push, _ids(data)), detokenizer.finish()]


@pytest.mark.parametrize("text", ["a😀b", "日本語", "é", "👩‍👩‍👧‍👦", "naïve"])
def test_characters_come_whole(text: str) -> None:
    assert [piece for piece in pieces(text.encode()) if piece] == list(text)


@pytest.mark.parametrize("stray", [b"\xb2", b"\xff\xc9", b"\xf0\x9f", b"\x80" * 30, b"\xe6" * 11])
def test_a_character_after_bytes_that_are_none(stray: bytes) -> None:
    """The fourth byte in a row was given out as U+FFFD, and the character that it began was lost:
    one stray byte before an emoji made five U+FFFD of it."""
    found = pieces(stray + "😀 and more".encode())
    assert "".join(found) == stray.decode(errors="replace") + "😀 and more"
    assert "😀" in found


def test_any_bytes() -> None:
    generator = random.Random(0)
    for _ in range(300):
        data = b"".join(
            generator.choice([bytes([generator.randrange(256)]), "é".encode(), "😀".encode()])
            for _ in range(40)
        )
        assert "".join(pieces(data)) == data.decode(errors="replace")


def test_a_character_that_never_ends() -> None:
    assert pieces(b"a\xf0\x9f") == ["a", "", "", "\ufffd"]


def _fallback() -> Tokenizer:
    """Llama's: letters and the space have tokens, every other character one for each byte."""
    words = ["▁", *map(chr, range(97, 123))]
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocabulary |= {word: 256 + i for i, word in enumerate(words)}
    core = RustTokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    core.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    return Tokenizer(core, {}, {}, frozenset())


FALLBACK = _fallback()


def fallback_ids(text: str) -> list[int]:
    """Token ids, the sign for a space in front left out."""
    return [
        index
        for c in text.replace(" ", "▁")
        for index in (
            [FALLBACK.core.token_to_id(c)]
            if FALLBACK.core.token_to_id(c) is not None
            else list(c.encode())
        )
    ]


@pytest.mark.parametrize("prompt", ["", "a prompt", "😀" * 5, "あい" * 4 + "a"])
@pytest.mark.parametrize("text", ["😀😃" * 4, "x日本語日本語 y"])
def test_rows_of_characters_that_are_bytes(prompt: str, text: str) -> None:
    """A window that began within a character made U+FFFD of each byte of the row that it cut: all
    Japanese, and emoji from the third on, that a Llama's vocabulary spells in bytes."""
    detokenizer = Detokenizer(FALLBACK, fallback_ids(prompt))
    found = [*map(detokenizer.push, fallback_ids(text)), detokenizer.finish()]
    shown = "".join(found)
    # Strip takes the first space of a text, and none after a prompt.
    assert shown == text and [piece for piece in found if piece] == list(text)


def test_an_answer_that_ends_within_a_character_keeps_those_before() -> None:
    detokenizer = Detokenizer(FALLBACK, fallback_ids("a prompt"))
    ids = fallback_ids("😀😀")[:-2]
    assert "".join(map(detokenizer.push, ids)) == "😀"
    assert detokenizer.finish() == "\ufffd" * 2


def test_any_text_in_bytes_and_letters() -> None:
    generator = random.Random(1)
    for _ in range(300):
        text = "".join(generator.choice("ab é日😀") for _ in range(30))
        detokenizer = Detokenizer(FALLBACK, fallback_ids("a日" * generator.randrange(6) + "a"))
        found = [*map(detokenizer.push, fallback_ids(text)), detokenizer.finish()]
        assert "".join(found) == text

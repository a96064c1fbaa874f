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

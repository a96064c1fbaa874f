"""Damaged sentencepiece models: an error that names the file, never one of Python's own."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from atoll.errors import ConfigError
from atoll.text import sentencepiece

FILES = {
    path.stem: path.read_bytes()
    for path in (Path(__file__).parents[1] / "data" / "sentencepiece").glob("*.model")
}
KINDS = {"mt5": "t5"}


def _convert(data: bytes, name: str, folder: Path) -> None:
    path = folder / "tokenizer.model"
    path.write_bytes(data)
    core = sentencepiece.convert(path, KINDS.get(name, name), {}).core
    core.encode("A ring of coral, Ä 你")


def _refused(data: bytes, name: str, folder: Path, match: str = "") -> None:
    with pytest.raises(ConfigError, match=f"tokenizer.model: .*{match}"):
        _convert(data, name, folder)


@pytest.mark.parametrize("name", FILES)
def test_cut_off_anywhere(name: str, tmp_path: Path) -> None:
    """Also between two pieces: a model without its last pieces gives other ids."""
    data = FILES[name]
    for end in [0, 1, *range(5, len(data), len(data) // 97), len(data) - 1]:
        _refused(data[:end], name, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_bytes_changed_at_random(name: str, tmp_path: Path) -> None:
    """A piece without a text was a KeyError."""
    generator, refused = random.Random(name), 0
    for _ in range(60):
        data = bytearray(FILES[name])
        at = generator.randrange(len(data))
        if generator.random() < 0.5:
            data[at] = generator.randrange(256)
        else:
            data[at : at + generator.randrange(9)] = generator.randbytes(generator.randrange(9))
        try:
            _convert(bytes(data), name, tmp_path)
        except ConfigError as error:
            assert "tokenizer.model" in str(error)
            refused += 1
    assert refused > 10


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


def _piece(text: bytes | None, kind: int = 1, score: bytes = bytes(4)) -> bytes:
    own = b"" if text is None else _field(1, text)
    return _field(1, own + b"\x15" + score + bytes([0x18, kind]))


UNKNOWN, TAIL = _piece(b"<unk>", 2), _field(2, b"") + _field(3, b"")
NAN = b"\x00\x00\xc0\x7f"


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (UNKNOWN + _piece(None) + TAIL, "KeyError"),
        (UNKNOWN + _piece(b"") + TAIL, "empty"),
        (UNKNOWN + _piece(b"a") + _piece(b"a") + TAIL, "twice"),
        (UNKNOWN + _piece(b"a", 9) + TAIL, "kind 9"),
        (UNKNOWN + _piece(b"a", score=NAN) + TAIL, "score nan"),
        (_piece(b"a") + TAIL, "unknown pieces"),
        (UNKNOWN + _piece(b"b", 2) + TAIL, "unknown pieces"),
        (UNKNOWN + _piece(b"<0x0A>", 6) + TAIL, "byte_fallback"),
        (UNKNOWN + _piece(b"\xff\xfe") + TAIL, "is no sentencepiece model"),
        (UNKNOWN + _piece(b"a"), "ends early"),
        (b"\x80" * 4000, "64 bits"),
        (b'{"version": "1.0"}', ""),
    ],
)
def test_what_the_library_refuses(data: bytes, match: str, tmp_path: Path) -> None:
    _refused(data, "llama", tmp_path, match)

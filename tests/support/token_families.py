"""A tiny tokenizer of every kind of decoder, with transformers' beside it as the reference.

Each has special tokens, an added one that is not special, words with and without a space in front,
and characters of several bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer
from transformers import PreTrainedTokenizerFast

from atoll.text import sentencepiece
from atoll.text.tokenizer import Tokenizer

SPECIAL = ("<s>", "</s>", "<pad>")
WORDS = (
    "a",
    "the",
    "word",
    "n",
    "'",
    "n't",
    ".",
    ",",
    "!",
    "s",
    "'s",
    "ve",
    "re",
    "m",
    "é",
    "東京",
)
_VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def as_bytes(data: bytes) -> str:
    """Bytes as byte-level vocabularies spell them."""
    return "".join(chr(b) if b in _VISIBLE else chr(256 + _HIDDEN.index(b)) for b in data)


def _numbered(*tokens: str) -> dict[str, int]:
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def _byte_level() -> RustTokenizer:
    pieces = [bytes([b]) for b in range(256)]
    pieces += [f"{space}{w}".encode() for w in WORDS for space in ("", " ")]
    # The end of one character with the beginning of the next, and with other text.
    pieces += [b"\x98\x80\xf0", b"\x82 a", b"\xe6\x9d", b"\xac\xe6", b"\n\n", b"x\xff"]
    core = RustTokenizer(models.BPE(_numbered(*map(as_bytes, pieces)), []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core


def _fallback(*decoder: Any) -> RustTokenizer:
    words = [f"{space}{w}" for w in WORDS for space in ("", "▁")]
    core = RustTokenizer(models.BPE(_numbered(*_BYTES, "▁", "▁▁", *words), [], byte_fallback=True))
    core.decoder = decoders.Sequence(list(decoder))
    return core


def _llama() -> RustTokenizer:
    core = _fallback(
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    )  # fmt: skip
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return core


def _gemma() -> RustTokenizer:
    return _fallback(decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse())


def _metaspace_fallback() -> RustTokenizer:
    return _fallback(decoders.ByteFallback(), decoders.Metaspace())


def _unigram() -> RustTokenizer:
    pieces = dict.fromkeys(["<unk>", "▁", *(f"{s}{w}" for w in WORDS for s in ("", "▁"))])
    core = RustTokenizer(models.Unigram([(piece, -1.0) for piece in pieces], 0))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    return core


def _wordpiece() -> RustTokenizer:
    words = [f"{mark}{w}" for w in WORDS for mark in ("", "##")]
    core = RustTokenizer(models.WordPiece(_numbered("[UNK]", *words), unk_token="[UNK]"))
    core.decoder = decoders.WordPiece()
    return core


def _suffixed() -> RustTokenizer:
    words = [f"{w}{mark}" for w in WORDS for mark in ("", "</w>")]
    core = RustTokenizer(models.BPE(_numbered(*words), [], end_of_word_suffix="</w>"))
    core.decoder = decoders.BPEDecoder("</w>")
    return core


def _words(decoder: Any) -> RustTokenizer:
    core = RustTokenizer(models.WordLevel(_numbered("<unk>", " ", *WORDS), unk_token="<unk>"))
    if decoder is not None:
        core.decoder = decoder
    return core


def _sentencepiece(name: str, kind: str) -> RustTokenizer:
    """As Atoll itself reads a model of sentencepiece."""
    path = Path(__file__).parents[1] / "data" / "sentencepiece" / name
    family = sentencepiece.family(None, kind)
    assert family is not None
    return sentencepiece.convert(path, family, {}).core


_CORES: dict[str, Callable[[], RustTokenizer]] = {
    "byte-level": _byte_level,
    "llama": _llama,
    "gemma": _gemma,
    "metaspace-fallback": _metaspace_fallback,
    "unigram": _unigram,
    "wordpiece": _wordpiece,
    "suffixed": _suffixed,
    "llama.model": partial(_sentencepiece, "llama.model", "llama"),
    "t5.model": partial(_sentencepiece, "t5.model", "t5"),
    "plain": lambda: _words(None),
    "fused": lambda: _words(decoders.Fuse()),
    "stripped": lambda: _words(
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    ),
}  # fmt: skip
# Those whose configuration asks for clean-up, which transformers ignores for BPE.
_CLEANED = ("byte-level", "unigram", "wordpiece", "fused")
# Those that put a token in front of every text.
_BEGUN = ("llama", "gemma")
FAMILIES = (*_CORES, *(f"{name}-cleaned" for name in _CLEANED))


def family(name: str) -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    """Ours and transformers', of one vocabulary."""
    kind = name.removesuffix("-cleaned")
    core = _CORES[kind]()
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    core.add_tokens([AddedToken("<added one>", special=False)])
    if kind in _BEGUN:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
        )
    config = {"clean_up_tokenization_spaces": kind != name}
    theirs = PreTrainedTokenizerFast(tokenizer_object=core, **config)
    return Tokenizer(core, config, {}, frozenset()), theirs

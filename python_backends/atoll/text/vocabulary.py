"""What single tokens are: their bytes, their text, and whether they are special.

The tokenizer's decoder determines a token's bytes. Byte-level BPE (GPT-2, Llama 3, NeoX, Bloom,
Falcon) spells every token in bytes; decoders with byte fallback (Llama 2, Mistral, Gemma) have one
token for each byte in addition to tokens of text; all others only have tokens of text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CACHED_TOKENS = 65536


class Vocabulary:
    """The tokens of one tokenizer, by id; an id without a token has no text.

    is_byte_level: every token is a sequence of bytes.
    """

    def __init__(self, core: Tokenizer) -> None:
        self._core = core
        kinds = _decoder_kinds(core)
        self.is_byte_level = set(kinds) <= {"ByteLevel", "Fuse"} and "ByteLevel" in kinds
        self._has_byte_tokens = "ByteFallback" in kinds
        self._special_ids = {
            token_id for token_id, t in core.get_added_tokens_decoder().items() if t.special
        }
        self._token = lru_cache(_CACHED_TOKENS)(core.id_to_token)
        self.token_bytes = lru_cache(_CACHED_TOKENS)(self._token_bytes)
        self.shown = lru_cache(_CACHED_TOKENS)(self._shown)

    def __contains__(self, token_id: int) -> bool:
        return self._token(token_id) is not None

    def is_special(self, token_id: int) -> bool:
        """Whether ``skip_special_tokens`` leaves the token out of a text."""
        return token_id in self._special_ids

    def special_ids(self, texts: Iterable[str]) -> frozenset[int]:
        """The special tokens that have one of these texts."""
        ids = (self._core.token_to_id(text) for text in texts)
        return frozenset(i for i in ids if i in self._special_ids)

    def character_part(self, token_id: int) -> bytes | None:
        """The byte of a byte-fallback token, unless that byte alone is a character."""
        byte = self._byte(token_id)
        return byte if byte is not None and byte[0] >= 0x80 else None

    def decode(self, ids: list[int]) -> str:
        """The text of tokens, including special ones."""
        return str(self._core.decode(ids, skip_special_tokens=False))

    @cached_property
    def anchor(self) -> int:
        """A token of letters: after it, other tokens have the text that they have within a text."""
        for token_id in range(self._core.get_vocab_size()):
            if token_id in self and not self.is_special(token_id) and not self._byte(token_id):
                text = self.decode([token_id])
                if text.isascii() and text.isalnum():
                    return token_id
        return 0

    def _token_bytes(self, token_id: int, is_first: bool = False) -> bytes:
        """A token's bytes; is_first: at the beginning of a text, where a space may be lost."""
        token = self._token(token_id)
        if token is None:
            return b""
        if self.is_byte_level:
            return _byte_level(token)
        if token_id in self._special_ids:
            return token.encode()
        return self._byte(token_id) or self._text(token_id, is_first).encode()

    def _shown(self, token_id: int, is_first: bool = False) -> str:
        r"""A token's text, or ``bytes:\xe2\x82`` if its bytes are not whole characters."""
        data = self.token_bytes(token_id, is_first)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _text(self, token_id: int, is_first: bool) -> str:
        if is_first:
            return self.decode([token_id])
        before = self.decode([self.anchor])
        return self.decode([self.anchor, token_id])[len(before) :]

    def _byte(self, token_id: int) -> bytes | None:
        if not self._has_byte_tokens:
            return None
        match = _BYTE_TOKEN.fullmatch(self._token(token_id) or "")
        return None if match is None else bytes([int(match[1], 16)])


def joined_ids(core: Tokenizer, size: int) -> npt.NDArray[np.int32]:
    """Of each id below ``size``, the least id whose text is the same: "of" within a word and alone.

    Returns:
        (size,). An id without a token is its own.
    """
    found, first = np.arange(size, dtype=np.int32), dict[str, int]()
    count = min(size, core.get_vocab_size())
    texts = core.decode_batch([[i] for i in range(count)], skip_special_tokens=False)
    for token_id, text in enumerate(texts):
        found[token_id] = first.setdefault(text, token_id)
    return found


def _decoder_kinds(core: Tokenizer) -> list[str]:
    """The decoder's type, or the types of the decoders in its sequence."""
    # Only the decoder's state: the whole tokenizer's takes megabytes.
    return [] if core.decoder is None else _kinds(json.loads(core.decoder.__getstate__()))


def _kinds(state: Any) -> list[str]:
    inner = [kind for one in state.get("decoders", ()) for kind in _kinds(one)]
    return inner or [str(state["type"])]


def _byte_level(token: str) -> bytes:
    """Each character represents a byte; a token with another character represents itself."""
    try:
        return bytes(_BYTES[character] for character in token)
    except KeyError:
        return token.encode()


def _bytes() -> dict[str, int]:
    """GPT-2's characters for bytes: the visible ones of Latin-1, the others from U+0100 on."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {**{chr(b): b for b in visible}, **{chr(256 + i): b for i, b in enumerate(hidden)}}


_BYTES = _bytes()

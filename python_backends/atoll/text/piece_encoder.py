"""Texts to tokens by the sentencepiece library, whose pieces have ids of a vocabulary of their own.

``tokenizers`` finds special tokens in texts, as transformers does, and decodes; the rest of a text
is cut by sentencepiece. A run of characters that its model does not know is one piece, which the
vocabulary may know all the same: it holds the pieces of other languages, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer


@dataclass(frozen=True)
class Pieces:
    """A text's tokens, named as in an ``Encoding`` of ``tokenizers``. offsets: in characters."""

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]
    special_tokens_mask: list[int]


@dataclass(frozen=True)
class PieceEncoder:
    """Texts to tokens.

    model: cuts texts. ids: of pieces in texts; unknown: of other pieces. end: the token that ends a
    text. has_codes: whether a text may begin with the language of its translation.
    """

    model: Any
    core: Tokenizer
    ids: Mapping[str, int]
    unknown: int
    end: str
    has_codes: bool

    def encode(self, text: str, before: Sequence[str] = (), after: Sequence[str] = ()) -> Pieces:
        """A text's tokens, and special tokens around them."""
        own = [*self._tokens(text)]
        around = [(token, 0, 0) for token in before], [(token, 0, 0) for token in after]
        tokens = [*around[0], *own, *around[1]]
        return Pieces(
            [self._id(token) for token, _, _ in tokens],
            [token for token, _, _ in tokens],
            [(start, stop) for _, start, stop in tokens],
            [1] * len(before) + [0] * len(own) + [1] * len(after),
        )

    def _id(self, token: str) -> int:
        found = self.ids.get(token)
        if found is None and token in self.special:
            found = self.core.token_to_id(token)
        return self.unknown if found is None else found

    @property
    def special(self) -> frozenset[str]:
        """Tokens that are found in texts before they are cut."""
        return frozenset(token.content for token in self.core.get_added_tokens_decoder().values())

    def _tokens(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Each token's text, and the characters that it is of."""
        special = self.special
        # Without special tokens the text is a single word to it.
        parts = self.core.encode_batch([text], add_special_tokens=False)[0]
        for start, stop in parts.offsets:
            part = text[start:stop]
            if part.strip() in special:
                yield part.strip(), start, stop
                continue
            if self.has_codes and part.startswith(">>") and "<<" in part:
                size = part.index("<<") + 2
                yield part[:size], start, start + size
                start, part = start + size, part[size:]
            for piece, begin, end in _cut(self.model, part):
                yield piece, start + begin, start + end


def _cut(model: Any, text: str) -> Iterator[tuple[str, int, int]]:
    """A text's pieces, and the characters that each is of."""
    # Of each byte, where sentencepiece counts, the character that it is in.
    places = [i for i, size in enumerate(len(c.encode()) for c in text) for _ in range(size)]
    places.append(len(text))
    for piece in model.encode(text, return_type="proto").pieces:
        yield piece.piece, places[piece.begin], places[piece.end]

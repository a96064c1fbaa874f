"""Spaces that transformers removes from decoded texts if tokenizer_config.json says so.

``clean_up_tokenization_spaces`` is meant for vocabularies of words, where "don't" is decoded as
"do n't"; transformers ignores it for BPE. This does the same to a text that arrives in pieces.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

# transformers' PreTrainedTokenizerBase.clean_up_tokenization, in its order.
_REPLACEMENTS = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
    (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
# An end of a text that later characters may complete to one of them, possibly after replacements.
_OPEN_END = re.compile(r" [ ']*(?:n'?|[vr])?$")
_FOR_BPE = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"


def is_wanted(config: Mapping[str, Any], core: Tokenizer) -> bool:
    """Whether tokenizer_config.json asks for it, as transformers reads it."""
    is_bpe = type(core.model).__name__ == "BPE"
    asked = bool(config.get("clean_up_tokenization_spaces"))
    return asked and (not is_bpe or bool(config.get(_FOR_BPE)))


def clean_up(text: str) -> str:
    """A complete text without these spaces."""
    for old, new in _REPLACEMENTS:
        text = text.replace(old, new)
    return text


class CleanUp:
    """The same for the texts of tokens: each keeps its own characters except removed spaces.

    Every piece is returned once, in order, as soon as it is final.
    """

    def __init__(self) -> None:
        self._open = ""
        self._waiting: deque[list[str]] = deque()  # of each piece, the characters kept
        self._num_missing: deque[int] = deque()

    def push(self, piece: str) -> list[str]:
        """The pieces that are final now."""
        self._waiting.append([])
        self._num_missing.append(len(piece))
        self._open += piece
        match = _OPEN_END.search(self._open)
        return self._settle(len(self._open) if match is None else match.start())

    def finish(self) -> list[str]:
        """The remaining pieces."""
        return self._settle(len(self._open))

    def _settle(self, size: int) -> list[str]:
        text, self._open = self._open[:size], self._open[size:]
        kept = set(_kept(text))
        found = []
        at = 0
        while self._num_missing:
            count = min(self._num_missing[0], size - at)
            self._waiting[0] += [text[i] for i in range(at, at + count) if i in kept]
            at += count
            self._num_missing[0] -= count
            if self._num_missing[0]:
                break
            self._num_missing.popleft()
            found.append("".join(self._waiting.popleft()))
        return found


class TrimmedEnd:
    """Removes the spaces at the end of a text that arrives in pieces; returns pieces as above."""

    def __init__(self) -> None:
        self._open: list[str] = []

    def push(self, piece: str) -> list[str]:
        """The pieces that are final now: those before one that may be the last with text."""
        if piece.strip():
            found, self._open = self._open, []
        elif piece or self._open:
            self._open.append(piece)
            return []
        else:
            return [piece]
        if piece[-1].isspace():
            self._open = [piece]
            return found
        return [*found, piece]

    def finish(self) -> list[str]:
        """The remaining pieces."""
        found = [piece.rstrip() for piece in self._open]
        self._open = []
        return found


def _kept(text: str) -> list[int]:
    """Positions of the characters that remain: only spaces are ever removed."""
    places = list(range(len(text)))
    for old, new in _REPLACEMENTS:
        at = text.find(old)
        if at < 0:
            continue
        gone = set()
        while at >= 0:
            gone |= {at, at + len(old) - 1} if old.endswith(" ") else {at}
            at = text.find(old, at + len(old))
        places = [place for index, place in enumerate(places) if index not in gone]
        text = text.replace(old, new)
    return places

"""Queries and documents to the token ids of a decoder that reranks, as ``pair_prompts`` asks it.

If a text is too long, its document is cut, and nothing else: what comes before the document and
after it are the tokens that texts with other documents have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from atoll.errors import ValidationError
from atoll.text.pair_prompts import PairPrompt, PairText, Part
from atoll.text.text_encoder import CHARACTER_LIMIT, Encoded, Ids, check_vocabulary
from atoll.text.tokenizer import Tokenizer
from atoll.text.truncation import (
    CHARACTERS_PER_TOKEN,
    GROWTH,
    LEAST_CHARACTERS,
    PieceRules,
    num_settled,
    piece,
)

# Documents whose tokens differ, in number, too; a space before them is part of a token of one.
_FILLERS = ("0", "a b c")
# Tokens: for fewer, the bookkeeping takes longer.
_LEAST_SHARED = 8


class _Frame(NamedTuple):
    """What the texts of all documents of a query have in common.

    before, after: tokens. num_fixed: those of ``before`` that are not of the document's own part.
    tail: characters after the document in its own part.
    """

    before: Ids
    after: Ids
    num_fixed: int
    tail: int


class PairEncoder:
    """Encodes pairs; safe to call from several threads.

    max_length: tokens that the model accepts. vocab_size: number of ids that it has a vector for.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: PairPrompt, max_length: int, vocab_size: int
    ) -> None:
        self.prompt, self.max_length, self._vocab_size = prompt, max_length, vocab_size
        self._core, self._rule = tokenizer.core, tokenizer.text_rule
        self._core.no_padding()
        self._core.no_truncation()
        self._rules = PieceRules.of(self._core)

    def encode(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        name: str,
        truncate: bool,
        direction: str = "right",
        instruction: str | None = None,
    ) -> list[Encoded]:
        """Ids of every query and document.

        Args:
            name: what errors call the documents. direction: the end at which they are cut.

        Raises:
            ValidationError: a text has more than ``max_length`` tokens and ``truncate`` is false,
                or its query alone has as many; or it has a token that the model lacks; or there is
                an instruction, and the prompt has no place for one.
        """
        if instruction is not None and not self.prompt.takes_instruction:
            raise ValidationError(
                f"instruction is {instruction!r:.80}; this model's prompt has no place for one"
            )
        # Of longer documents, only as much is tokenized as is needed to cut them.
        most = self._first_size() if truncate else CHARACTER_LIMIT * self.max_length
        whole = [i for i, (_, document) in enumerate(pairs) if len(document) <= most]
        texts = [self.prompt.text(*pairs[index], instruction) for index in whole]
        rows = dict(zip(whole, self._rows(texts), strict=True))
        frames: dict[str, _Frame] = {}
        for index, (query, document) in enumerate(pairs):
            label, row = f"{name}[{index}]", rows.get(index)
            if row is None or len(row) > self.max_length:
                if not truncate:
                    raise self._too_long(label, document, row)
                if query not in frames:
                    frames[query] = self._frame(query, instruction)
                rows[index] = self._cut(label, (query, document), instruction, frames[query],
                                        is_left=direction == "left")  # fmt: skip
            check_vocabulary(self._core, label, rows[index], self._vocab_size)
        return [Encoded(rows[index], None) for index in range(len(pairs))]

    def _cut(
        self, label: str, pair: tuple[str, str], instruction: str | None, frame: _Frame,
        is_left: bool,
    ) -> Ids:  # fmt: skip
        """The frame with as many tokens of the document as fit."""
        query, document = pair
        before, after, num_fixed, tail = frame
        room = self.max_length - len(before) - len(after)
        if room < 1:
            raise ValidationError(
                f"query has {len(before) + len(after)} tokens with its prompt; the model accepts "
                f"{self.max_length}, the document's included, and only documents are cut"
            )
        size, most = self._first_size(), CHARACTER_LIMIT * self.max_length
        while True:
            part = piece(document, size, is_left)
            is_whole = len(part) == len(document)
            own, num_before = part, 0
            # What comes before the document can be joined to its beginning alone.
            if is_whole or not is_left:
                own = self.prompt.text(query, part, instruction).own.text
                own, num_before = own[: len(own) - tail], len(before) - num_fixed
            own = self._ruled(own)
            (encoding,) = self._core.encode_batch([own], add_special_tokens=False)
            ids = np.array(encoding.ids, np.int32)
            count = len(ids) if is_whole else num_settled(encoding, 0, own, self._rules, is_left)
            if is_whole or count >= num_before + room:
                if is_left:
                    return np.concatenate([before, ids[num_before:][-room:], after])
                kept = ids[: self.max_length - num_fixed - len(after)]
                return np.concatenate([before[:num_fixed], kept, after])
            if size == most:
                raise ValidationError(
                    f"{label} has {len(document)} characters, whose "
                    f"{'last' if is_left else 'first'} {most} do not tell which {room} tokens "
                    "stay, as where no word ends: send less of it"
                )
            size = min(size * GROWTH, most)

    def _frame(self, query: str, instruction: str | None) -> _Frame:
        texts = [self.prompt.text(query, filler, instruction) for filler in _FILLERS]
        first, second = self._rows(texts)
        most = min(len(first), len(second)) - 1
        num_after = _num_equal(first[::-1], second[::-1], most)
        num_before = _num_equal(first, second, most - num_after)
        num_fixed = sum(map(len, self._encoded(texts[0].before)))
        if texts[0].own.has_specials:
            num_fixed += self._core.encode(_FILLERS[0]).sequence_ids.index(0)
        tail = self.prompt.tail(query, instruction)
        after = first[len(first) - num_after :]
        return _Frame(first[:num_before], after, num_fixed, tail)

    def _rows(self, texts: Sequence[PairText]) -> list[Ids]:
        """The ids of whole texts."""
        parts = dict.fromkeys(p for text in texts for p in (*text.before, text.own, *text.after))
        ids = dict(zip(parts, self._encoded(tuple(parts)), strict=True))
        return [
            np.array([i for p in (*t.before, t.own, *t.after) for i in ids[p]], np.int32)
            for t in texts
        ]

    def _encoded(self, parts: Sequence[Part]) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        for has_specials in (False, True):
            places = [i for i, part in enumerate(parts) if part.has_specials == has_specials]
            texts = [self._ruled(parts[i].text) for i in places]
            # Releases the GIL.
            encodings = self._core.encode_batch(texts, add_special_tokens=has_specials)
            found |= {i: encoding.ids for i, encoding in zip(places, encodings, strict=True)}
        return [found[i] for i in range(len(parts))]

    def _ruled(self, text: str) -> str:
        return text if self._rule is None else self._rule(text)

    def _first_size(self) -> int:
        return max(LEAST_CHARACTERS, CHARACTERS_PER_TOKEN * self.max_length)

    def _too_long(self, label: str, document: str, row: Ids | None) -> ValidationError:
        count = (
            f"{len(document)} characters" if row is None else f"{len(row)} tokens with its query"
        )
        return ValidationError(
            f"{label} has {count}; the model accepts {self.max_length} tokens (set truncate=true "
            "to cut it)"
        )


def with_prefixes(encoded: Sequence[Encoded], queries: Sequence[str]) -> list[Encoded]:
    """Gives neighbours of one query the beginning that they share, which is then computed once.

    At least one token of each text stays its own.
    """
    found = list(encoded)
    starts = [i for i, q in enumerate(queries) if i == 0 or q != queries[i - 1]]
    for start, stop in zip(starts, [*starts[1:], len(queries)], strict=True):
        rows = [encoded[index].ids for index in range(start, stop)]
        size = min(map(len, rows)) - 1
        for row in rows[1:]:
            size = _num_equal(rows[0], row, size)
        if len(rows) > 1 and size >= _LEAST_SHARED:
            prefix = rows[0][:size]
            for index in range(start, stop):
                found[index] = replace(encoded[index], prefix=prefix)
    return found


def _num_equal(first: Ids, second: Ids, most: int) -> int:
    """How many values at the beginning of both are equal, up to ``most``."""
    most = max(0, most)
    differ = np.flatnonzero(first[:most] != second[:most])
    return int(differ[0]) if len(differ) else most

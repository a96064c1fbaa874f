"""Texts to token ids for encoders: truncation to the model's length, never padding.

Special tokens count towards the limit, so that a truncated text still ends as the model expects. Of
a text that is truncated, only as much as necessary is tokenized (``truncation``). Texts are cut
here and not by ``tokenizers``, which keeps the rest in windows, and for a pair every window of one
text with every window of the other: two texts of 30,000 tokens take 15 seconds. ``encode_batch``
releases the GIL; a loop of ``encode`` does not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding
from tokenizers import Tokenizer as RustTokenizer

from atoll.errors import EmptyInputError, ValidationError
from atoll.text.truncation import (
    CHARACTERS_PER_TOKEN,
    GROWTH,
    LEAST_CHARACTERS,
    PieceRules,
    is_settled,
    kept,
    num_settled,
    piece,
)

logger = logging.getLogger(__name__)

# Texts with more characters per token of the model's limit are refused if they may not be cut, as
# in TEI; counting the tokens of 2 MB takes seconds.
CHARACTER_LIMIT = 250
# Of a text that is cut, at most that much is searched, or this much: 5 MB without a space take half
# a minute and 700 MB of memory.
LEAST_LOOKED_THROUGH = 100_000

Ids = npt.NDArray[np.int32]
# Texts, or pairs of texts.
Texts = Sequence[str] | Sequence[tuple[str, str]]


class Places(NamedTuple):
    """Where tokens are in their text.

    offsets: (tokens, 2), the first character of each and the one after its last, as code points.
    is_special: (tokens,), whether it was added to the text, and has no place in it.
    """

    offsets: Ids
    is_special: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Encoded:
    """One text (or pair) as the model sees it. ids, type_ids: (tokens,). places: of a text.

    prefix: the beginning of ``ids``, one array for all texts of a request that share it.
    num_padding: how many of the last ids fill the text up. pixels: see ``encoders.packer.Item``.
    """

    ids: Ids
    type_ids: Ids | None
    places: Places | None = None
    prefix: Ids | None = None
    num_padding: int = 0
    pixels: npt.NDArray[np.uint8] | None = None


class TextEncoder:
    """Encodes batches of texts; safe to call from several threads.

    max_length: tokens that the model accepts, special tokens included.
    num_token_types: segments that the model has vectors for; 0: it is given none; None: any.
    vocab_size: number of ids that the model has a vector for; None: all of the tokenizer's.
    num_reserved: tokens that the caller adds, which errors count too.
    """

    def __init__(
        self,
        core: RustTokenizer,
        max_length: int,
        num_token_types: int | None = None,
        vocab_size: int | None = None,
        num_reserved: int = 0,
    ) -> None:
        self.max_length, self._num_token_types = max_length, num_token_types
        self._core, self._num_reserved = core, num_reserved
        self._vocab_size = None if vocab_size is None else _short_of(core, vocab_size)
        core.no_padding()
        core.no_truncation()
        self._rules = PieceRules.of(core)

    def encode(
        self,
        texts: Texts,
        *,
        name: str,
        truncate: bool,
        direction: str = "right",
        add_special_tokens: bool = True,
        with_places: bool = False,
    ) -> list[Encoded]:
        """Ids of every text. with_places: for single texts, also where the tokens are in them.

        Raises:
            ValidationError: a text has more than ``max_length`` tokens, or CHARACTER_LIMIT times as
                many characters, and ``truncate`` is false; or it has a token or a segment that the
                model lacks; or it is cut, and no word ends within that many characters.
            EmptyInputError: a text has no tokens, like blanks in some tokenizers; a model that uses
                the first token would use another text's.
        """
        rows: list[Any] = list(texts)
        if truncate:
            found = self._encode_pieces(rows, name, direction == "left", add_special_tokens)
            encodings, starts = [one for one, _ in found], [start for _, start in found]
        else:
            self._check_characters(rows, name)
            encodings = self._core.encode_batch(rows, add_special_tokens=add_special_tokens)
            starts = [0] * len(rows)
        for index, encoding in enumerate(encodings):
            count = len(encoding.ids)
            if count > self.max_length and not truncate:
                more = self._num_reserved
                raise ValidationError(
                    f"{name}[{index}] has {count + more} tokens{_paired(rows[index])}; the model "
                    f"accepts {self.max_length + more} (set truncate=true to cut it)"
                )
            if count == 0:
                raise EmptyInputError(
                    f"{name}[{index}] is {rows[index]!r:.80}, of which the tokenizer makes no token"
                )
        encoded = [
            self._encoded(encoding, direction, start if with_places else None)
            for encoding, start in zip(encodings, starts, strict=True)
        ]
        for index, one in enumerate(encoded):
            if self._vocab_size is not None:
                check_vocabulary(self._core, f"{name}[{index}]", one.ids, self._vocab_size)
            if self._num_token_types is not None and one.type_ids is not None:
                check_segments(f"{name}[{index}]", one.type_ids, self._num_token_types)
        return encoded

    def check_pairs(self) -> None:
        """Raises ValidationError: the model lacks a segment that every pair has."""
        types = np.array(self._core.encode("a", "b").type_ids, np.int32)
        if self._num_token_types:
            check_segments("a pair", types, self._num_token_types)

    def _encode_pieces(
        self, texts: list[Any], name: str, is_left: bool, add_special_tokens: bool
    ) -> list[tuple[Encoding, int]]:
        """Encodings of as much of every text as is needed to determine the remaining tokens.

        With where that begins in a single text.
        """
        most = max(LEAST_LOOKED_THROUGH, CHARACTER_LIMIT * self.max_length)
        size = max(LEAST_CHARACTERS, CHARACTERS_PER_TOKEN * self.max_length)
        found: dict[int, tuple[Encoding, int]] = {}
        while len(found) < len(texts):
            rows = [index for index in range(len(texts)) if index not in found]
            pieces = [_pieces(texts[index], size, is_left) for index in rows]
            encodings = self._core.encode_batch(pieces, add_special_tokens=add_special_tokens)
            for index, part, encoding in zip(rows, pieces, encodings, strict=True):
                if self._is_enough(encoding, texts[index], part, is_left):
                    found[index] = encoding, len(texts[index]) - len(part) if is_left else 0
                elif size == most and self._has_words(encoding, texts[index], part, is_left):
                    # Which of two texts is the longer one decides who keeps an odd token.
                    whole = [texts[index]]
                    special = add_special_tokens
                    found[index] = (
                        self._core.encode_batch(whole, add_special_tokens=special)[0], 0
                    )  # fmt: skip
                elif size == most:
                    raise self._endless(f"{name}[{index}]", texts[index], most, is_left)
            size = min(size * GROWTH, most)
        return [found[index] for index in range(len(texts))]

    def _endless(self, name: str, text: Any, most: int, is_left: bool) -> ValidationError:
        count = sum(map(len, _sequences(text)))
        return ValidationError(
            f"{name} has {count} characters, whose {'last' if is_left else 'first'} {most} do not "
            f"tell which {self.max_length} tokens stay, as where no word ends: send less of it"
        )

    def _is_enough(self, encoding: Encoding, text: Any, part: Any, is_left: bool) -> bool:
        settled = self._settled(encoding, text, part, is_left)
        if all(number is None for number in settled):
            return True
        counts = [encoding.sequence_ids.count(number) for number in range(len(settled))]
        return is_settled(settled, counts, self._room(encoding))

    def _has_words(self, encoding: Encoding, text: Any, part: Any, is_left: bool) -> bool:
        """Whether the first tokens of each text are known, however long they are."""
        settled = self._settled(encoding, text, part, is_left)
        return all(number is None or number >= self._room(encoding) for number in settled)

    def _settled(self, encoding: Encoding, text: Any, part: Any, is_left: bool) -> list[int | None]:
        """``num_settled`` of each text; None: all of it was tokenized."""
        pairs = enumerate(zip(_sequences(part), _sequences(text), strict=True))
        return [
            None if len(p) == len(w) else num_settled(encoding, number, p, self._rules, is_left)
            for number, (p, w) in pairs
        ]

    def _room(self, encoding: Encoding) -> int:
        """Tokens of texts, beside the special ones."""
        return max(0, self.max_length - encoding.sequence_ids.count(None))

    def _check_characters(self, texts: Sequence[Any], name: str) -> None:
        """Raises ValidationError: a text is too long to be tokenized at all, as in TEI."""
        limit = CHARACTER_LIMIT * self.max_length
        for index, text in enumerate(texts):
            count = sum(map(len, _sequences(text)))
            if count > limit:
                raise ValidationError(
                    f"{name}[{index}] has {count} characters{_paired(text)}; the model accepts "
                    f"{self.max_length} tokens, of at most {limit} characters "
                    "(set truncate=true to cut it)"
                )

    def _encoded(self, encoding: Encoding, direction: str, start: int | None) -> Encoded:
        """start: of the encoding in its text, if the places of tokens are wanted."""
        ids = np.array(encoding.ids, np.int32)
        types = np.array([] if self._num_token_types == 0 else encoding.type_ids, np.int32)
        places = None if start is None else _places(encoding, start)
        if len(ids) > self.max_length:
            rows = kept(encoding.sequence_ids, self.max_length, is_left=direction == "left")
            ids, types = ids[rows], types[rows] if len(types) else types
            if places is not None:
                places = Places(places.offsets[rows], places.is_special[rows])
        return Encoded(ids, types if types.any() else None, places)


def _places(encoding: Encoding, start: int) -> Places:
    """start: of the encoding in its text."""
    offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2) + np.int32(start)
    return Places(offsets, np.array(encoding.special_tokens_mask, bool))


def check_vocabulary(core: RustTokenizer, name: str, ids: Ids, vocab_size: int) -> None:
    """Raises ValidationError: a token for which the model has no vector."""
    beyond = ids[ids >= vocab_size]
    if len(beyond):
        wrong = int(beyond[0])
        raise ValidationError(
            f"{name} has the token {core.id_to_token(wrong)!r} with id {wrong}; "
            f"the model's vocabulary has {vocab_size}"
        )


def check_segments(name: str, type_ids: Ids, num_token_types: int) -> None:
    """Raises ValidationError: a segment for which the model has no vector."""
    last = int(type_ids.max())
    if last >= num_token_types:
        raise ValidationError(
            f"{name} has tokens of segment {last}, by tokenizer.json; type_vocab_size is "
            f"{num_token_types}: the model has segments up to {num_token_types - 1}"
        )


def _sequences(text: Any) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _paired(text: Any) -> str:
    return "" if isinstance(text, str) else " with its pair"


def _pieces(text: Any, size: int, is_left: bool) -> Any:
    if isinstance(text, str):
        return piece(text, size, is_left)
    return tuple(piece(one, size, is_left) for one in text)


def _short_of(core: RustTokenizer, vocab_size: int) -> int | None:
    """``vocab_size`` if the tokenizer has ids beyond it: tokens were added, but not to the model.

    One such id would fail the whole batch, and on a GPU the process.
    """
    largest = max(core.get_vocab(with_added_tokens=True).values(), default=0)
    if largest < vocab_size:
        return None
    logger.warning("the tokenizer has ids up to %d; the model has %d", largest, vocab_size)
    return vocab_size

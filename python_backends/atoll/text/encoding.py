"""Texts to token ids for encoders: truncation to the model's length, never padding.

Special tokens count into the limit, so that a cut text still ends as the model expects. Texts are
cut here and not by ``tokenizers``, which keeps what it cuts off, in windows, for both texts of a
pair every window of one with every window of the other: two of 30,000 tokens take it 15 seconds.
``encode_batch`` releases the GIL; a loop of ``encode`` does not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding
from tokenizers import Tokenizer as RustTokenizer

from atoll.errors import ValidationError

logger = logging.getLogger(__name__)

# Texts, or pairs of texts.
Texts = Sequence[str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Encoded:
    """One text (or pair) as the model sees it."""

    ids: list[int]
    type_ids: list[int] | None


class TextEncoder:
    """Encodes batches of texts; safe to call from several threads.

    max_length: tokens that the model takes, special tokens included.
    has_token_types: whether the model is given the segments of a pair.
    vocab_size: ids for which the model has a vector; None: for all that the tokenizer gives.
    """

    def __init__(
        self,
        core: RustTokenizer,
        max_length: int,
        has_token_types: bool = True,
        vocab_size: int | None = None,
    ) -> None:
        self.max_length, self._has_token_types = max_length, has_token_types
        self._core = core
        self._vocab_size = None if vocab_size is None else _short_of(core, vocab_size)
        core.no_padding()
        core.no_truncation()

    def encode(
        self,
        texts: Texts,
        *,
        name: str,
        truncate: bool,
        direction: str = "right",
        add_special_tokens: bool = True,
    ) -> list[Encoded]:
        """Ids of every text.

        Raises:
            ValidationError: a text has more than ``max_length`` tokens and ``truncate`` is false;
                or it has a token that the model lacks.
        """
        encodings = self._core.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        if not truncate:
            for index, encoding in enumerate(encodings):
                if len(encoding.ids) > self.max_length:
                    raise ValidationError(
                        f"{name}[{index}] has {len(encoding.ids)} tokens; the model accepts "
                        f"{self.max_length} (set truncate=true to cut it)"
                    )
        encoded = [self._encoded(encoding, direction) for encoding in encodings]
        if self._vocab_size is not None:
            for index, found in enumerate(encoded):
                self._check(f"{name}[{index}]", found.ids, self._vocab_size)
        return encoded

    def _check(self, name: str, ids: list[int], vocab_size: int) -> None:
        wrong = next((token for token in ids if token >= vocab_size), None)
        if wrong is not None:
            raise ValidationError(
                f"{name} has the token {self._core.id_to_token(wrong)!r} with id {wrong}; "
                f"the model's vocabulary has {vocab_size}"
            )

    def _encoded(self, encoding: Encoding, direction: str) -> Encoded:
        ids = encoding.ids
        types = encoding.type_ids if self._has_token_types else []
        if len(ids) > self.max_length:
            kept = _kept(encoding.sequence_ids, self.max_length, is_left=direction == "left")
            ids = [ids[at] for at in kept]
            types = [types[at] for at in kept] if types else types
        return Encoded(ids, types if any(types) else None)


def _kept(sequences: list[int | None], max_length: int, is_left: bool) -> list[int]:
    """Places of the tokens that stay when the longer of two texts is cut first.

    sequences: for each token the number of its text, None for those that frame the texts; each text
    is in one piece. It loses its first tokens if ``is_left``, else its last.
    """
    counts = [sequences.count(number) for number in (0, 1)]
    room = max(0, max_length - sequences.count(None))
    # The shorter one has a claim to half of the room, the longer one to the rest.
    short = min(*counts, room // 2)
    sizes = [short, min(max(counts), room - short)]
    if counts[0] > counts[1]:
        sizes.reverse()
    kept: list[int] = []
    at = 0
    for number, (count, size) in enumerate(zip(counts, sizes, strict=True)):
        start = sequences.index(number) if count else at
        first = start + count - size if is_left else start
        kept += [*range(at, start), *range(first, first + size)]
        at = start + count
    return [*kept, *range(at, len(sequences))]


def _short_of(core: RustTokenizer, vocab_size: int) -> int | None:
    """``vocab_size`` if the tokenizer has ids beyond it: tokens were added, and the model was not
    resized. One such id would fail the whole pack, and on a GPU the process."""
    largest = max(core.get_vocab(with_added_tokens=True).values(), default=0)
    if largest < vocab_size:
        return None
    logger.warning("the tokenizer has ids up to %d; the model has %d", largest, vocab_size)
    return vocab_size

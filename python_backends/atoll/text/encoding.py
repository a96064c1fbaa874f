"""Texts to token ids for encoders: truncation to the model's length, never padding.

``tokenizers`` counts special tokens into the limit, so that a cut text still ends as the model
expects. ``encode_batch`` releases the GIL; a loop of ``encode`` does not.
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
        # A truncating copy per side: the setting belongs to the tokenizer, not to the call.
        self._cut = {side: _truncating(core, max_length, side) for side in ("left", "right")}

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
        core = self._cut[direction] if truncate else self._core
        encodings = core.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        if not truncate:
            for index, encoding in enumerate(encodings):
                if len(encoding.ids) > self.max_length:
                    raise ValidationError(
                        f"{name}[{index}] has {len(encoding.ids)} tokens; the model accepts "
                        f"{self.max_length} (set truncate=true to cut it)"
                    )
        if self._vocab_size is not None:
            for index, encoding in enumerate(encodings):
                self._check(f"{name}[{index}]", encoding, self._vocab_size)
        return [self._encoded(encoding) for encoding in encodings]

    def _check(self, name: str, encoding: Encoding, vocab_size: int) -> None:
        ids = encoding.ids
        wrong = next((at for at, token in enumerate(ids) if token >= vocab_size), None)
        if wrong is not None:
            raise ValidationError(
                f"{name} has the token {encoding.tokens[wrong]!r} with id {ids[wrong]}; "
                f"the model's vocabulary has {vocab_size}"
            )

    def _encoded(self, encoding: Encoding) -> Encoded:
        types = encoding.type_ids if self._has_token_types else []
        return Encoded(encoding.ids, types if any(types) else None)


def _short_of(core: RustTokenizer, vocab_size: int) -> int | None:
    """``vocab_size`` if the tokenizer has ids beyond it: tokens were added, and the model was not
    resized. One such id would fail the whole pack, and on a GPU the process."""
    largest = max(core.get_vocab(with_added_tokens=True).values(), default=0)
    if largest < vocab_size:
        return None
    logger.warning("the tokenizer has ids up to %d; the model has %d", largest, vocab_size)
    return vocab_size


def _truncating(core: RustTokenizer, max_length: int, direction: str) -> RustTokenizer:
    copy: RustTokenizer = RustTokenizer.from_str(core.to_str())
    copy.enable_truncation(max_length, strategy="longest_first", direction=direction)
    return copy

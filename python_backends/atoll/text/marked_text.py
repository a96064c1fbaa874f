"""Queries and documents of a late-interaction model as token ids.

    [CLS] marker w1 w2 w3 [SEP] [MASK] [MASK] ...    a query, filled up to its length
    [CLS] marker w1 w2 w3 , w4 [SEP]                 a document, whose "," keeps no vector

The marker is part of the length, and stays however a text is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken
from tokenizers import Tokenizer as RustTokenizer

from atoll.errors import ConfigError
from atoll.text.text_encoder import Encoded, TextEncoder
from atoll.weights.late_interaction import Expansion

# Shows where a tokenizer puts its special tokens, and what it makes of spaces.
_PROBE = "a b"


@dataclass(frozen=True)
class Marked:
    """One text as the model sees it.

    num_attended: how many of its first tokens are attended to; None: all.
    kept: (tokens,) bool, which of them keep their vectors; None: all.
    """

    encoded: Encoded
    num_attended: int | None = None
    kept: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Marker:
    """A token that is inserted at a place. rest: the prompt behind it."""

    token_id: int
    place: int
    rest: str


def marker_of(core: RustTokenizer, prompt: str, *, is_known: bool) -> Marker | None:
    """The marker that a prompt begins with; None: the prompt is text like any other.

    is_known: the prompt begins with a token even if the tokenizer would split its text, which is
        then added to the tokenizer's special tokens.
    """
    first = (prompt.split(maxsplit=1) or [""])[0]
    for name in filter(None, (prompt, first)):
        token_id = core.token_to_id(name)
        if token_id is None:
            continue
        if is_known and _ids(core, name) != [token_id]:
            core.add_special_tokens([AddedToken(name, normalized=False, special=True)])
        rest = prompt[len(name) :]
        (plain,) = core.encode_batch([rest + _PROBE])
        place = next((i for i, n in enumerate(plain.sequence_ids) if n is not None), 0)
        inserted = [*plain.ids[:place], token_id, *plain.ids[place:]]
        (whole,) = core.encode_batch([prompt + _PROBE])
        return Marker(token_id, place, rest) if whole.ids == inserted else None
    return None


class MarkedEncoder:
    """Encodes the texts of one side, queries or documents; safe to call from several threads."""

    def __init__(
        self,
        core: RustTokenizer,
        *,
        prompt: str,
        has_marker: bool,
        length: int,
        expansion: Expansion | None,
        mask_token: str | None,
        skiplist: Sequence[str],
        num_token_types: int | None,
        vocab_size: int,
    ) -> None:
        """length: tokens of the longest text. mask_token: what a query is filled up with.

        Raises:
            ConfigError: the length leaves no room for a text, or there is no such token.
        """
        self._marker = marker_of(core, prompt, is_known=has_marker)
        self._prompt = prompt if self._marker is None else self._marker.rest
        num_reserved = 0 if self._marker is None else 1
        if length <= num_reserved + core.num_special_tokens_to_add(False):
            raise ConfigError(f"a text may have {length} tokens, which are all special ones")
        self._texts = TextEncoder(
            core, length - num_reserved, num_token_types, vocab_size, num_reserved
        )
        self._expansion, self._fill = expansion, 0
        if expansion is not None:
            name = expansion.token or mask_token
            fill = None if name is None else core.token_to_id(name)
            if fill is None or fill >= vocab_size:
                raise ConfigError(f"queries are filled up with {name!r}, which is no token")
            self._fill = fill
        # What is no token of its own is left: it would be [UNK], which stands for other words.
        found = map(core.token_to_id, skiplist)
        self._skipped = np.array([i for i in found if i is not None], np.int32)

    def encode(
        self, texts: Sequence[str], *, name: str, truncate: bool, direction: str
    ) -> list[Marked]:
        """Raises ValidationError, EmptyInputError: see ``TextEncoder``."""
        found = self._texts.encode(
            [self._prompt + text for text in texts],
            name=name, truncate=truncate, direction=direction,
        )  # fmt: skip
        return [self._marked(encoded) for encoded in found]

    def _marked(self, encoded: Encoded) -> Marked:
        ids, types = encoded.ids, encoded.type_ids
        if self._marker is not None:
            ids = np.insert(ids, self._marker.place, self._marker.token_id)
            types = None if types is None else np.insert(types, self._marker.place, 0)
        num_attended = None
        if self._expansion is not None and len(ids) < self._expansion.length:
            missing = self._expansion.length - len(ids)
            num_attended = None if self._expansion.is_attended else len(ids)
            ids = np.pad(ids, (0, missing), constant_values=self._fill)
            types = None if types is None else np.pad(types, (0, missing))
        kept = ~np.isin(ids, self._skipped) if len(self._skipped) else None
        return Marked(Encoded(ids, types), num_attended, kept)


def _ids(core: RustTokenizer, text: str) -> list[int]:
    return list(core.encode_batch([text], add_special_tokens=False)[0].ids)

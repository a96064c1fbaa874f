"""Token statistics for penalties and bans, updated as tokens are generated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atoll.sampling.inputs import Ints


class TokenCounts:
    """The distinct tokens of a text, and how often each occurs after the prompt."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._ids, self._counts = np.empty(64, np.int64), np.zeros(64, np.int64)
        self._num_seen = 0

    @property
    def token_ids(self) -> Ints:
        """(distinct tokens,), in the order of their first occurrence."""
        return self._ids[: len(self._places)]

    @property
    def output_counts(self) -> Ints:
        """(distinct tokens,)."""
        return self._counts[: len(self._places)]

    def update(self, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        """Counts the tokens appended since the last call."""
        for at in range(self._num_seen, len(token_ids)):
            token = token_ids[at]
            place = self._places.setdefault(token, len(self._places))
            if place == len(self._ids):
                self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._ids[place] = token
            self._counts[place] += at >= num_prompt_tokens
        self._num_seen = len(token_ids)


class RepeatedNgrams:
    """The tokens that followed each n-gram of a text, for ``no_repeat_ngram_size``."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._following: dict[tuple[int, ...], list[int]] = {}
        self._num_seen = 0

    def banned(self, token_ids: Sequence[int]) -> list[int]:
        """Tokens that would complete an n-gram that the text already contains."""
        before = self._size - 1
        for end in range(max(self._num_seen, before), len(token_ids)):
            head = tuple(token_ids[end - before : end])
            self._following.setdefault(head, []).append(token_ids[end])
        self._num_seen = len(token_ids)
        tail = tuple(token_ids[len(token_ids) - before :])
        return self._following.get(tail, []) if len(token_ids) >= self._size else []

"""Guesses the next tokens by looking up what followed the same tokens earlier in the text.

Saxena 2023, prompt lookup decoding. The next step verifies a guess exactly: a token is accepted
only if the sampler, with the random number of its position, chooses the same one. So the answer is
the same with and without speculation, greedy or sampled.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from atoll.engine.request import RequestState

# Longer matches guess better; single tokens match too often to be right.
_LENGTHS = (3, 2)


class _Index:
    """The positions after each n-gram of a text, last occurrence first."""

    def __init__(self) -> None:
        self._following: dict[tuple[int, ...], int] = {}
        self._num_seen = 0

    def guess(self, ids: list[int], count: int) -> list[int]:
        """What followed the text's last tokens when they last occurred."""
        # An n-gram is indexed once a token follows it, so that the end never matches itself.
        for end in range(max(self._num_seen, 1), len(ids)):
            for length in _LENGTHS:
                if end >= length:
                    self._following[tuple(ids[end - length : end])] = end
        self._num_seen = len(ids)
        for length in _LENGTHS:
            at = self._following.get(tuple(ids[-length:])) if len(ids) >= length else None
            if at is not None:
                return ids[at : at + count]
        return []


class NgramDraft:
    """The ``draft`` of an engine; guesses up to ``num_tokens`` for each sequence."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._indices: WeakKeyDictionary[RequestState, _Index] = WeakKeyDictionary()

    def __call__(self, sequence: RequestState) -> list[int]:
        """Empty if the next logits depend on tokens that are not certain yet."""
        options = sequence.request.options
        if options.changes_logits or sequence.matcher is not None:
            return []
        room = options.max_new_tokens - sequence.num_output_tokens - 1
        count = min(self._num_tokens, room)
        if count <= 0:
            return []
        index = self._indices.setdefault(sequence, _Index())
        return index.guess(sequence.token_ids, count)

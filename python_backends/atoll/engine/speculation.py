"""Guesses the next tokens by looking up what followed the same tokens earlier in the text, or in
the request's prediction of its answer.

Saxena 2023, prompt lookup decoding. The next step verifies a guess exactly: a token is accepted
only if the sampler, with the random number of its position, chooses the same one. So the answer is
the same with and without speculation, greedy or sampled.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from atoll.engine.request import RequestState

# Longer matches guess better; single tokens match too often to be right.
_LENGTHS = (3, 2)
# Stands before a prediction and before an answer, so that their first tokens match, too.
_START = (-1, -1)


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


class _Prediction:
    """The positions after each n-gram of a prediction, and how far an answer has got in it."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = [*_START, *ids]
        self._following: dict[tuple[int, ...], list[int]] = {}
        for end in range(len(_START), len(self._ids)):
            for length in _LENGTHS:
                if end >= length:
                    ngram = tuple(self._ids[end - length : end])
                    self._following.setdefault(ngram, []).append(end)
        self._at = self._num_seen = 0

    def guess(self, sequence: RequestState, count: int) -> list[int]:
        """What follows the answer's last tokens in the prediction: behind the last guess, if they
        occur there, else where they occur last."""
        first = max(sequence.num_prompt_tokens, sequence.num_tokens - _LENGTHS[0])
        last = [*_START, *sequence.token_ids[first:]]
        expected = self._at + sequence.num_output_tokens - self._num_seen
        for length in _LENGTHS:
            if places := self._following.get(tuple(last[-length:])):
                nearest = bisect_left(places, expected)
                self._at = places[min(nearest, len(places) - 1)]
                self._num_seen = sequence.num_output_tokens
                return self._ids[self._at : self._at + count]
        return []


class NgramDraft:
    """The ``draft`` of an engine; guesses up to ``num_tokens`` for each sequence."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._indices: WeakKeyDictionary[RequestState, _Index] = WeakKeyDictionary()
        self._predictions: WeakKeyDictionary[RequestState, _Prediction] = WeakKeyDictionary()

    def __call__(self, sequence: RequestState) -> list[int]:
        """Empty if the next logits depend on tokens that are not certain yet; sets ``predicts``."""
        sequence.predicts = False
        options = sequence.request.options
        if options.changes_logits or sequence.matcher is not None:
            return []
        room = options.max_new_tokens - sequence.num_output_tokens - 1
        count = min(self._num_tokens, room)
        if count <= 0:
            return []
        if predicted := self._predicted(sequence, count):
            sequence.predicts = True
            return predicted
        index = self._indices.setdefault(sequence, _Index())
        return index.guess(sequence.token_ids, count)

    def _predicted(self, sequence: RequestState, count: int) -> list[int]:
        """The guess by the request's prediction, if it has one."""
        ids = sequence.request.prediction_ids
        if not ids:
            return []
        if (prediction := self._predictions.get(sequence)) is None:
            prediction = self._predictions[sequence] = _Prediction(ids)
        return prediction.guess(sequence, count)

"""The sampler's input for those requests of a step that sample a token.

Arrays that depend only on the requests' options are reused as long as the same requests sample.
Those that depend on the texts are rebuilt in each step, for the requests whose options need them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from atoll.engine.request import RequestState, SamplingOptions
from atoll.engine.token_counts import RepeatedNgrams, TokenCounts
from atoll.sampling.inputs import BeamRows, Ints, RowAmounts, RowTokens, SamplingInput

_Row = tuple[int, RequestState]

# The dtype of each option, and its neutral value.
_COLUMNS = {
    "temperature": (np.float64, 1.0), "top_k": (np.int64, 0), "top_p": (np.float64, 1.0),
    "min_p": (np.float64, 0.0), "typical_p": (np.float64, 1.0),
}  # fmt: skip
_MAX_SEED = (1 << 64) - 1


@dataclass(frozen=True)
class _Batch:
    """Requests that sample, and the arrays that stay the same for them.

    offsets: (rows,) each row's position in its request's draft. The lists hold the rows whose input
    depends on the text.
    """

    states: list[RequestState]
    counts: list[int]
    given: SamplingInput
    owners: list[RequestState]
    offsets: Ints
    repeating: list[_Row]
    penalized: list[_Row]
    banning: list[_Row]
    constrained: list[_Row]
    forcing: list[_Row]


class SamplingRows:
    """Builds a ``SamplingInput`` from request states. Engine thread only."""

    def __init__(self) -> None:
        self._batch = _batch([], [])
        self._counts: WeakKeyDictionary[RequestState, TokenCounts] = WeakKeyDictionary()
        self._ngrams: WeakKeyDictionary[RequestState, RepeatedNgrams] = WeakKeyDictionary()

    def build(self, states: list[RequestState]) -> SamplingInput:
        """``1 + len(draft)`` rows for each request."""
        counts = [len(state.draft) + 1 for state in states]
        if self._batch.states != states or self._batch.counts != counts:
            self._batch = _batch(states, counts)
        batch, changes = self._batch, dict[str, Any]()
        if len(batch.owners) > len(states):
            drafts = [token for state in states for token in state.draft]
            changes["draft_ids"] = np.array(drafts, np.int64)
        if batch.given.do_sample is not None:
            lengths = (owner.num_output_tokens for owner in batch.owners)
            first = np.fromiter(lengths, np.int64, len(batch.owners))
            changes["positions"] = first + batch.offsets
        if batch.given.watermark is not None:
            changes["watermark"] = _column(
                batch.owners, lambda s: s.token_ids[-1] if s.request.options.watermark else -1
            )
        if (
            batch.repeating or batch.penalized or batch.banning or batch.constrained
            or batch.forcing
        ):  # fmt: skip
            changes |= self._of_texts(batch)
        return dataclasses.replace(batch.given, **changes) if changes else batch.given

    def _of_texts(self, batch: _Batch) -> dict[str, Any]:
        late = [(row, s) for row, s in batch.constrained if _too_early(s)]
        changes: dict[str, Any] = {
            "repetition": _amounts(batch.repeating, self._repeated),
            "penalties": _amounts(batch.penalized, self._penalties),
            "banned": _tokens(batch.banning, self._banned),
            "late_ends": _tokens(late, _too_early),
            "forced": _tokens(batch.forcing, _forced),
        }
        if batch.constrained:
            grammars = [s.request.grammar for _, s in batch.constrained]
            words = max(-(-g.vocab_size // 32) for g in grammars if g is not None)
            bitmask = np.zeros((len(grammars), words), np.int32)
            for row, (_, state) in enumerate(batch.constrained):
                assert state.matcher is not None, "a request with a grammar has a matcher"
                state.matcher.fill(bitmask, row)
            changes["bitmask"] = bitmask
        return changes

    def _count(self, state: RequestState) -> TokenCounts:
        counts = self._counts.get(state)
        if counts is None:
            counts = self._counts[state] = TokenCounts()
        counts.update(state.token_ids, state.num_prompt_tokens)
        return counts

    def _repeated(self, state: RequestState) -> tuple[Ints, Any]:
        return self._count(state).token_ids, state.request.options.repetition_penalty

    def _penalties(self, state: RequestState) -> tuple[Ints, Any]:
        """OpenAI's: ``count * frequency_penalty + presence_penalty`` of generated tokens."""
        found, options = self._count(state), state.request.options
        kept = found.output_counts > 0
        counts = found.output_counts[kept]
        amounts = counts * options.frequency_penalty + options.presence_penalty
        return found.token_ids[kept], amounts

    def _banned(self, state: RequestState) -> list[int]:
        """Tokens that would repeat an n-gram or end a bad word, those that no answer begins with,
        and ending tokens that come too early.

        A grammar takes precedence over the last: see ``SamplingInput.late_ends``.
        """
        size, banned = state.request.options.no_repeat_ngram_size, _unwanted(state)
        if size:
            if state not in self._ngrams:
                self._ngrams[state] = RepeatedNgrams(size)
            banned += self._ngrams[state].banned(state.token_ids)
        return banned if state.matcher is not None else banned + _too_early(state)


def _batch(states: list[RequestState], counts: list[int]) -> _Batch:
    owners = [s for s, count in zip(states, counts, strict=True) for _ in range(count)]
    options = [owner.request.options for owner in owners]
    columns: dict[str, Any] = {
        name: np.array([getattr(o, name) for o in options], dtype)
        for name, (dtype, neutral) in _COLUMNS.items()
        if any(o.do_sample and getattr(o, name) != neutral for o in options)
    }
    if any(o.do_sample for o in options):
        columns["do_sample"] = np.array([o.do_sample for o in options])
        columns["seeds"] = np.array([o.seed & _MAX_SEED for o in options], np.uint64)
    num_top = [o.top_logprobs if o.logprobs else -1 for o in options]
    if any(o.logprobs and o.num_beams == 1 for o in options):
        columns["num_top"] = np.array(
            [-1 if o.num_beams > 1 else n for o, n in zip(options, num_top, strict=True)]
        )
    columns["beams"] = _beams(options, num_top)
    if any(o.watermark for o in options):
        columns["watermark"] = np.full(len(options), -1)
    rows = list(enumerate(owners))
    times = [(row, o.first_time) for row, o in enumerate(options) if o.first_time is not None]
    if times:
        columns["first_times"] = RowTokens(*map(np.array, zip(*times, strict=True)))
    constrained = [(row, s) for row, s in rows if s.matcher is not None]
    if constrained:
        columns["masked_rows"] = np.array([row for row, _ in constrained])
    given = SamplingInput(
        num_rows=np.array(counts, np.int64), draft_ids=np.empty(0, np.int64),
        bias=_bias(options), **columns,
    )  # fmt: skip
    offsets = [offset for count in counts for offset in range(count)]

    def using(is_used: Callable[[SamplingOptions], object]) -> list[_Row]:
        return [(row, s) for row, s in rows if is_used(s.request.options)]

    return _Batch(
        list(states), counts, given, owners, np.array(offsets, np.int64),
        repeating=using(lambda o: o.repetition_penalty != 1.0),
        penalized=using(lambda o: o.frequency_penalty or o.presence_penalty),
        banning=using(
            lambda o: o.no_repeat_ngram_size or o.min_new_tokens or o.bad_words
            or o.begin_suppress_tokens
        ),
        constrained=constrained,
        forcing=using(lambda o: o.forced_eos_token_id is not None),
    )  # fmt: skip


def _beams(options: Sequence[SamplingOptions], num_top: Sequence[int]) -> BeamRows | None:
    rows = [row for row, o in enumerate(options) if o.num_beams > 1]
    if not rows:
        return None
    # The best beams of all, and those that go on, are among so many of each.
    counts = [options[row].num_beams + len(options[row].ending_token_ids) for row in rows]
    wanted = np.array([num_top[row] for row in rows])
    return BeamRows(np.array(rows), np.array(counts), wanted if (wanted >= 0).any() else None)


def _bias(options: Sequence[SamplingOptions]) -> RowAmounts | None:
    found = [(row, *pair) for row, o in enumerate(options) for pair in o.logit_bias]
    if not found:
        return None
    rows, tokens, amounts = zip(*found, strict=True)
    return RowAmounts(np.array(rows), np.array(tokens), np.array(amounts, np.float32))


def _unwanted(state: RequestState) -> list[int]:
    """The ends of bad words that the text has the rest of, and what no answer begins with."""
    options, ids = state.request.options, state.token_ids
    found = [word[-1] for word in options.bad_words if tuple(ids[1 - len(word) :]) == word[:-1]]
    return found if state.num_output_tokens else [*found, *options.begin_suppress_tokens]


def _too_early(state: RequestState) -> list[int]:
    """Ending tokens, as long as the answer is shorter than min_new_tokens."""
    options = state.request.options
    is_long_enough = state.num_output_tokens >= options.min_new_tokens
    return [] if is_long_enough else sorted(options.ending_token_ids)


def _forced(state: RequestState) -> list[int]:
    """The token that an answer of full length ends with."""
    options = state.request.options
    is_last = state.num_output_tokens == options.max_new_tokens - 1
    forced = options.forced_eos_token_id
    return [forced] if is_last and forced is not None else []


def _column(states: Sequence[RequestState], value_of: Callable[[RequestState], int]) -> Ints:
    return np.fromiter((value_of(state) for state in states), np.int64, len(states))


def _amounts(
    rows: Sequence[_Row], found_by: Callable[[RequestState], tuple[Ints, Any]]
) -> RowAmounts | None:
    """The tokens of every row with their amounts, or with one amount for all."""
    found = [(row, *found_by(state)) for row, state in rows]
    found = [each for each in found if len(each[1])]
    if not found:
        return None
    amounts = [np.broadcast_to(amount, tokens.shape) for _, tokens, amount in found]
    return RowAmounts(
        np.repeat([row for row, *_ in found], [len(tokens) for _, tokens, _ in found]),
        np.concatenate([tokens for _, tokens, _ in found]),
        np.concatenate(amounts).astype(np.float32),
    )


def _tokens(
    rows: Iterable[_Row], found_by: Callable[[RequestState], list[int]]
) -> RowTokens | None:
    found = [(row, found_by(state)) for row, state in rows]
    tokens = [token for _, ids in found for token in ids]
    if not tokens:
        return None
    owners = np.repeat([row for row, _ in found], [len(ids) for _, ids in found])
    return RowTokens(owners, np.array(tokens, np.int64))

"""From a plan to the arrays that the runner computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from atoll.engine.request import RequestState
from atoll.engine.sampling_rows import SamplingRows
from atoll.engine.scheduler import PlannedRequest, StepPlan
from atoll.runner.step_input import CrossStep, EncoderStep, StepInput, Words, slots_of
from atoll.sampling.inputs import Ints, PromptTokens


class StepInputBuilder:
    """Makes a ``StepInput`` of a plan and the states of its requests."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._sampling = SamplingRows()

    def build(self, plan: StepPlan, all_states: Mapping[str, RequestState]) -> StepInput:
        """The plan must not be empty."""
        states = [all_states[row.request_id] for row in plan]
        count = len(plan)
        counts = np.fromiter((row.num_new_tokens for row in plan), np.int64, count)
        computed = np.fromiter((row.num_computed_tokens for row in plan), np.int64, count)
        starts = _starts(counts)
        if starts[-1] == count:
            owners, positions = np.arange(count), computed
        else:
            owners = np.repeat(np.arange(count), counts)
            positions = np.arange(starts[-1]) - (starts[:-1] - computed)[owners]
        tables = np.stack(
            [
                _table([row.block_tables[group] for row in plan])
                for group in range(len(plan[0].block_tables))
            ]
        )
        sampling = [state for row, state in zip(plan, states, strict=True) if row.samples]
        return StepInput(
            token_ids=_token_ids(plan, states),
            positions=positions,
            cu_seqlens=starts.astype(np.int32),
            seq_lens=(computed + counts).astype(np.int32),
            prompt_lens=np.fromiter((s.num_prompt_tokens for s in states), np.int32, count),
            slots=slots_of(tables, owners, positions, self._block_size),
            block_tables=tables,
            adapters=np.fromiter((s.adapter for s in states), np.int32, count),
            sampled_tokens=_sampled_tokens(plan, starts),
            encoder=self._encoder([r for r in plan if r.encodes], all_states),
            cross=_cross(plan, states),
            sampling=self._sampling.build(sampling) if sampling else None,
            prompts=_prompts(plan, states, starts),
        )

    def _encoder(
        self, rows: Sequence[PlannedRequest], all_states: Mapping[str, RequestState]
    ) -> EncoderStep | None:
        if not rows:
            return None
        states = [all_states[row.request_id] for row in rows]
        inputs = [np.array(state.request.encoder_ids, np.int64) for state in states]
        counts = np.array([len(ids) for ids in inputs], np.int64)
        starts = _starts(counts)
        owners = np.repeat(np.arange(len(inputs)), counts)
        positions = np.arange(starts[-1]) - starts[:-1][owners]
        table = _table([row.cross_table for row in rows])
        return EncoderStep(
            token_ids=np.concatenate(inputs),
            positions=positions,
            cu_seqlens=starts.astype(np.int32),
            slots=slots_of(table, owners, positions, self._block_size),
            adapters=np.array([state.adapter for state in states], np.int32),
        )


def _starts(counts: Ints) -> Ints:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def _token_ids(plan: StepPlan, states: Sequence[RequestState]) -> Ints:
    ids: list[int] = []
    for row, state in zip(plan, states, strict=True):
        start = row.num_computed_tokens
        ids += state.token_ids[start : start + row.num_new_tokens]
        ids += row.draft
    return np.array(ids, np.int64)


def _table(tables: Sequence[npt.NDArray[np.int32]]) -> Words:
    rows = np.zeros((len(tables), max(len(table) for table in tables)), np.int32)
    for row, table in zip(rows, tables, strict=True):
        row[: len(table)] = table
    return rows


def _sampled_tokens(plan: StepPlan, starts: Ints) -> Ints:
    """The last token of every text at whose end the step is, and those of its draft."""
    if starts[-1] == len(plan) and all(row.samples for row in plan):
        return np.arange(len(plan))
    found: list[int] = []
    for row, end in zip(plan, starts[1:].tolist(), strict=True):
        if row.samples:
            found += range(end - 1 - len(row.draft), end)
    return np.array(found, np.int64)


def _cross(plan: StepPlan, states: Sequence[RequestState]) -> CrossStep | None:
    lengths = np.fromiter((len(s.request.encoder_ids) for s in states), np.int32, len(states))
    if not lengths.any():
        return None
    return CrossStep(_table([row.cross_table for row in plan]), lengths)


def _prompts(plan: StepPlan, states: Sequence[RequestState], starts: Ints) -> PromptTokens | None:
    """The prompt tokens that follow each chunk's tokens."""
    scored = [at for at, row in enumerate(plan) if row.num_scored]
    if not scored:
        return None
    ids: list[int] = []
    for at in scored:
        first = plan[at].num_computed_tokens + 1
        ids += states[at].token_ids[first : first + plan[at].num_scored]
    return PromptTokens(
        first_tokens=starts[scored],
        num_tokens=np.array([plan[at].num_scored for at in scored]),
        token_ids=np.array(ids, np.int64),
        num_top=np.array([states[at].request.options.prompt_top_logprobs for at in scored]),
    )

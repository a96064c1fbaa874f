"""Turns a plan into the arrays that the runner computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atoll.engine.plan import PlannedRequest, StepPlan
from atoll.engine.request import RequestState
from atoll.engine.sampling_rows import SamplingRows
from atoll.engine.state_slots import NO_SLOT
from atoll.packing import pack
from atoll.runner.step_input import (
    CrossStep,
    EncoderStep,
    StateStep,
    StepInput,
    Words,
    slots_of,
)
from atoll.sampling.inputs import Ints, PromptTokens, Singles


@dataclass(frozen=True)
class _Batch:
    """The requests of a step, and the arrays that stay the same for them; see ``StepInput``."""

    states: list[RequestState]
    prompt_lens: Words
    adapters: Words
    encoder_lens: Words

    @classmethod
    def of(cls, states: list[RequestState]) -> _Batch:
        columns = zip(
            *((s.num_prompt_tokens, s.adapter, len(s.request.encoder_ids)) for s in states),
            strict=True,
        )
        return cls(states, *(np.array(column, np.int32) for column in columns))


class StepInputBuilder:
    """Builds a ``StepInput`` from a plan and the states of its requests."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._sampling = SamplingRows()
        self._batch: _Batch | None = None

    def build(self, plan: StepPlan, all_states: Mapping[str, RequestState]) -> StepInput:
        """The plan must not be empty."""
        states = [all_states[row.request_id].members[row.beam] for row in plan]
        if self._batch is None or self._batch.states != states:
            self._batch = _Batch.of(states)
        counts = np.array([row.num_new_tokens for row in plan])
        computed = np.array([row.num_computed_tokens for row in plan])
        starts, positions = pack(counts, computed)
        owners = np.arange(len(plan)).repeat(counts)
        tables = _tables([row.block_tables for row in plan])
        sampling = [state for row, state in zip(plan, states, strict=True) if row.samples]
        is_decoding = starts[-1] == len(plan) == len(sampling)
        return StepInput(
            token_ids=_token_ids(plan, states),
            positions=positions,
            cu_seqlens=starts.astype(np.int32),
            seq_lens=(computed + counts).astype(np.int32),
            prompt_lens=self._batch.prompt_lens,
            slots=slots_of(tables, owners, positions, self._block_size),
            block_tables=tables,
            adapters=self._batch.adapters,
            sampled_tokens=owners if is_decoding else _sampled_tokens(plan, starts),
            encoder=self._encoder([r for r in plan if r.encodes], all_states),
            cross=_cross(plan, self._batch.encoder_lens),
            states=_states(plan),
            block_copies=_block_copies(plan),
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
        starts, positions = pack(counts)
        owners = np.arange(len(rows)).repeat(counts)
        table = _tables([(row.cross_table,) for row in rows])[0]
        return EncoderStep(
            token_ids=np.concatenate(inputs),
            positions=positions,
            cu_seqlens=starts.astype(np.int32),
            slots=slots_of(table, owners, positions, self._block_size),
            adapters=np.array([state.adapter for state in states], np.int32),
            features=_features(states),
        )


def _features(states: Sequence[RequestState]) -> Singles | None:
    """Sounds, concatenated; a model has either these or ids as inputs."""
    found = [s.request.features for s in states if s.request.features is not None]
    return np.concatenate(found) if found else None


def _token_ids(plan: StepPlan, states: Sequence[RequestState]) -> Ints:
    ids: list[int] = []
    for row, state in zip(plan, states, strict=True):
        start = row.num_computed_tokens
        ids += state.token_ids[start : start + row.num_new_tokens]
        ids += row.draft
    return np.array(ids, np.int64)


def _tables(rows: Sequence[Sequence[npt.NDArray[np.int32]]]) -> Words:
    """Tables of each row, by group, as (groups, rows, blocks)."""
    width = max([len(table) for tables in rows for table in tables])
    found = np.zeros((len(rows[0]), len(rows), width), np.int32)
    for group, kept in enumerate(found):
        for target, tables in zip(kept, rows, strict=True):
            table = tables[group]
            target[: len(table)] = table
    return found


def _sampled_tokens(plan: StepPlan, starts: Ints) -> Ints:
    """Indices of each sampled text's last token and of its draft tokens."""
    found: list[int] = []
    for row, end in zip(plan, starts[1:].tolist(), strict=True):
        if row.samples:
            found += range(end - 1 - len(row.draft), end)
    return np.array(found, np.int64)


def _cross(plan: StepPlan, encoder_lens: Words) -> CrossStep | None:
    if not encoder_lens.any():
        return None
    return CrossStep(_tables([(row.cross_table,) for row in plan])[0], encoder_lens)


def _states(plan: StepPlan) -> StateStep | None:
    """The plan's states; None if no layer is recurrent."""
    if plan[0].state_slot == NO_SLOT:
        return None
    return StateStep(
        np.array([row.state_slot for row in plan], np.int32),
        _pairs([pair for row in plan for pair in row.state_copies]),
        _pairs([pair for row in plan for pair in row.state_saves]),
    )


def _block_copies(plan: StepPlan) -> Words | None:
    """Of beams that have parted."""
    copies = [copy for row in plan for copy in row.block_copies]
    return np.array(copies, np.int32) if copies else None


def _pairs(pairs: list[tuple[int, int]]) -> Words:
    return np.array(pairs, np.int32).reshape(-1, 2)


def _prompts(plan: StepPlan, states: Sequence[RequestState], starts: Ints) -> PromptTokens | None:
    """For each chunk, the prompt tokens that follow its tokens."""
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

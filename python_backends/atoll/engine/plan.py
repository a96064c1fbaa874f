"""What a step computes, request by request: the scheduler's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from atoll.engine.request import RequestState
from atoll.engine.state_slots import NO_SLOT


class PlannedRequest(NamedTuple):
    """One request's part of a step.

    num_new_tokens: tokens to compute, the draft included. samples: whether they reach the end of
    the text, so that the next token is sampled. encodes: whether the encoder's input is computed
    first. num_scored: prompt tokens that get a log-probability. block_tables: the request's blocks
    in each group of layers, and those of the encoder's keys and values. state_slot, state_copies,
    state_saves: see ``engine.state_slots.HeldState``. beam: which of a search's beams it is;
    -1: no search. block_copies: see ``RequestState.copies``.
    """

    request_id: str
    num_computed_tokens: int
    num_new_tokens: int
    draft: tuple[int, ...]
    samples: bool
    encodes: bool
    num_scored: int
    block_tables: tuple[npt.NDArray[np.int32], ...]
    cross_table: npt.NDArray[np.int32]
    state_slot: int = NO_SLOT
    state_copies: tuple[tuple[int, int], ...] = ()
    state_saves: tuple[tuple[int, int], ...] = ()
    beam: int = -1
    block_copies: tuple[tuple[int, int, int], ...] = ()


StepPlan = Sequence[PlannedRequest]
_NO_BLOCKS = np.empty(0, np.int32)


def planned(sequence: RequestState, count: int, samples: bool) -> PlannedRequest:
    """The part of a sequence that computes ``count`` tokens."""
    computed, request, num_scored = sequence.num_computed_tokens, sequence.request, 0
    if request.options.prompt_logprobs and sequence.wants_prompt_logprobs:
        num_scored = min(count, sequence.num_tokens - computed - 1)
    return PlannedRequest(
        request.request_id, computed, count, tuple(sequence.draft), samples,
        not sequence.is_encoded, num_scored, tuple([table.blocks for table in sequence.tables]),
        sequence.cross_table.blocks if request.encoder_ids else _NO_BLOCKS,
        sequence.state.slot, sequence.state.copies, sequence.state.saves,
        sequence.beams.index(sequence) if sequence.beams else -1, sequence.copies,
    )  # fmt: skip

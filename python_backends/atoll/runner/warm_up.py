"""The steps that a loaded model runs before it serves: a prompt, and one more token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from atoll.runner.step_input import CrossStep, EncoderStep, StateStep, StepInput, slots_of
from atoll.sampling.inputs import SamplingInput

# Options with separate kernels; a GPU compiles each on first use.
DRAWS: tuple[dict[str, Any], ...] = ({}, {"top_k": 2}, {"top_p": 0.5}, {"top_k": 2, "top_p": 0.5})


def num_blocks(num_tokens: int, block_size: int) -> int:
    """Blocks that the steps of ``warm_up_steps`` use, at most."""
    return 2 * (num_tokens // block_size + 2)


def warm_up_steps(
    num_tokens: int,
    block_size: int,
    num_groups: int,
    *,
    start: int | None = None,
    draw: dict[str, Any] | None = None,
    has_states: bool = False,
    features: tuple[int, int] | None = None,
) -> Iterator[StepInput]:
    """A prompt of zeros and a decoding step.

    features: of an encoder of sound, frames for each of its outputs, and values of a frame.
    start: the token that an encoder-decoder's answers begin with; the zeros are then its input.
    draw: sampling options; None: greedy. has_states: there are recurrent layers, with one slot.
    """
    first, cross, encoder, none = 0, None, None, np.empty((0, 2), np.int32)
    if start is not None:
        needed = -(-num_tokens // block_size)
        positions = np.arange(num_tokens)
        table = np.arange(needed, dtype=np.int32).reshape(1, -1)  # [None] has a stride of 0
        encoder = EncoderStep(
            np.zeros(num_tokens, np.int64), positions, np.array([0, num_tokens], np.int32),
            slots_of(table, np.zeros(num_tokens, np.int64), positions, block_size),
            np.full(1, -1, np.int32),
            None if features is None else np.zeros(
                (num_tokens * features[0], features[1]), np.float32
            ),
        )  # fmt: skip
        cross = CrossStep(table, np.array([num_tokens], np.int32))
        first, num_tokens = needed, 1
    for computed, count in ((0, num_tokens), (num_tokens, 1)):
        positions = np.arange(computed, computed + count)
        total = computed + count
        table = np.arange(first, first - (-total // block_size), dtype=np.int32)
        tables = np.broadcast_to(table, (num_groups, 1, len(table))).copy()
        yield StepInput(
            token_ids=np.full(count, start or 0),
            positions=positions,
            cu_seqlens=np.array([0, count], np.int32),
            seq_lens=np.array([total], np.int32),
            prompt_lens=np.array([num_tokens], np.int32),
            slots=slots_of(tables, np.zeros(count, np.int64), positions, block_size),
            block_tables=tables,
            adapters=np.full(1, -1, np.int32),
            sampled_tokens=np.array([count - 1]),
            encoder=None if computed else encoder,
            cross=cross,
            states=StateStep(np.zeros(1, np.int32), none, none) if has_states else None,
            sampling=_sampling(draw),
        )


def _sampling(draw: dict[str, Any] | None) -> SamplingInput:
    one, none = np.ones(1, np.int64), np.empty(0, np.int64)
    if draw is None:
        return SamplingInput(one, none)
    options: dict[str, Any] = {name: np.array([value]) for name, value in draw.items()}
    return SamplingInput(
        one, none, np.ones(1, bool), seeds=np.zeros(1, np.uint64), positions=0 * one, **options
    )

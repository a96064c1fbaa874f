"""The input and output of one step as plain arrays: the interface between engine and runner.

The engine schedules and builds a ``StepInput``; the runner, or several that split a model, computes
it; the engine applies the ``StepOutput``. They share nothing else. A step that was saved with
``to_bytes`` can be computed again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atoll.runner import frames
from atoll.sampling.inputs import (
    Ints,
    PromptTokens,
    Sampled,
    SamplingInput,
    Singles,
    TokenLogprobs,
)

Words = npt.NDArray[np.int32]


@dataclass(frozen=True)
class EncoderStep:
    """New inputs of an encoder-decoder's encoder, concatenated.

    token_ids, positions: (tokens,). cu_seqlens: (inputs + 1,). slots: (tokens,) where the keys and
    values go. adapters: (inputs,) as in ``StepInput``. features: (frames, features) of sound, in
    place of the ids; None: the ids are the input.
    """

    token_ids: Ints
    positions: Ints
    cu_seqlens: Words
    slots: Ints
    adapters: Words
    features: Singles | None = None


@dataclass(frozen=True)
class CrossStep:
    """Where the encoder's keys and values are: block_tables (rows, blocks), seq_lens (rows,)."""

    block_tables: Words
    seq_lens: Words


@dataclass(frozen=True)
class StateStep:
    """The states of recurrent layers: slots (rows,), a row of their tensors for each request.

    copies, saves: (copied slots, 2), from slot to slot, before and after the step.
    """

    slots: Words
    copies: Words
    saves: Words


@dataclass(frozen=True)
class StepInput:
    """The new tokens of a step's requests, one row per request.

    token_ids, positions: (tokens,), rows concatenated. cu_seqlens: (rows + 1,) where they begin.
    seq_lens: (rows,) tokens of each text, the new ones included. prompt_lens: (rows,).
    slots: (groups, tokens) where keys and values go, for each group of layers.
    block_tables: (groups, rows, blocks).
    adapters: (rows,) numbers of LoRA adapters; -1: none.
    sampled_tokens: (sampling rows,) indices of the tokens to sample after.
    encoder, cross: of an encoder-decoder. states: of a model with recurrent layers.
    block_copies: (copies, 3) group of layers, from block, to block, before the step.
    sampling: None if no request samples.
    """

    token_ids: Ints
    positions: Ints
    cu_seqlens: Words
    seq_lens: Words
    prompt_lens: Words
    slots: Ints
    block_tables: Words
    adapters: Words
    sampled_tokens: Ints
    encoder: EncoderStep | None = None
    cross: CrossStep | None = None
    states: StateStep | None = None
    block_copies: Words | None = None
    sampling: SamplingInput | None = None
    prompts: PromptTokens | None = None

    @property
    def num_rows(self) -> int:
        """Requests in the step."""
        return len(self.seq_lens)

    def to_bytes(self) -> bytes:
        """See ``runner.frames``."""
        return frames.to_bytes(self)

    @staticmethod
    def from_bytes(frame: bytes) -> StepInput:
        """See ``runner.frames``."""
        return frames.from_bytes(StepInput, frame)


@dataclass(frozen=True)
class StepOutput:
    """sampled: the sampled tokens, if any. prompts: log-probabilities of ``StepInput.prompts``."""

    sampled: Sampled | None = None
    prompts: TokenLogprobs | None = None

    def to_bytes(self) -> bytes:
        """See ``runner.frames``."""
        return frames.to_bytes(self)

    @staticmethod
    def from_bytes(frame: bytes) -> StepOutput:
        """See ``runner.frames``."""
        return frames.from_bytes(StepOutput, frame)


def slots_of(tables: Words, owners: Ints, positions: Ints, block_size: int) -> Ints:
    """The cache slots of the tokens at ``positions`` of the rows ``owners``.

    tables: (..., rows, blocks) -> (..., tokens).
    """
    *groups, num_rows, width = tables.shape
    at = owners * width + positions // block_size
    blocks = tables.reshape(*groups, num_rows * width).take(at, axis=-1)
    slots: Ints = blocks.astype(np.int64) * block_size
    slots += positions % block_size
    return slots

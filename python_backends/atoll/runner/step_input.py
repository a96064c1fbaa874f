"""What one step computes, and what comes of it: plain arrays, the border of engine and runner.

The engine decides and makes a ``StepInput``; the runner, or several that split a model, computes
it; the engine applies the ``StepOutput``. Neither knows anything else of the other. A step that was
written to a file by ``to_bytes`` can be computed again.
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
    TokenLogprobs,
)

Words = npt.NDArray[np.int32]


@dataclass(frozen=True)
class EncoderStep:
    """Inputs of an encoder-decoder's encoder that are new in this step, one after the other.

    token_ids, positions: (tokens,). cu_seqlens: (inputs + 1,). slots: (tokens,) where the keys and
    values go. adapters: (inputs,) as in ``StepInput``.
    """

    token_ids: Ints
    positions: Ints
    cu_seqlens: Words
    slots: Ints
    adapters: Words


@dataclass(frozen=True)
class CrossStep:
    """Where the encoder's keys and values are: block_tables (rows, blocks), seq_lens (rows,)."""

    block_tables: Words
    seq_lens: Words


@dataclass(frozen=True)
class StepInput:
    """New tokens of some requests, a row for each request.

    token_ids, positions: (tokens,), one row after the other. cu_seqlens: (rows + 1,) where they
        begin. seq_lens: (rows,) tokens of each text, the new ones included. prompt_lens: (rows,).
    slots: (groups, tokens) where keys and values go, for each group of layers.
    block_tables: (groups, rows, blocks).
    adapters: (rows,) numbers of LoRA adapters; -1: none.
    sampled_tokens: (sampling rows,) tokens of the batch after which the sampler chooses.
    encoder, cross: of an encoder-decoder. sampling: None where no text is at its end.
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
    """sampled: the chosen tokens; None where nothing was. prompts: of ``StepInput.prompts``."""

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
    """Where the tokens at ``positions`` of the rows ``owners`` go in the cache.

    tables: (..., rows, blocks) -> (..., tokens).
    """
    *groups, num_rows, width = tables.shape
    at = owners * width + positions // block_size
    blocks = tables.reshape(*groups, num_rows * width).take(at, axis=-1)
    slots: Ints = blocks.astype(np.int64) * block_size
    slots += positions % block_size
    return slots

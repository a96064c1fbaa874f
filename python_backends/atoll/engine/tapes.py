"""Decoding steps of fixed sizes as tapes of native kernels, on a CPU.

    plain -> recorded -> checked against a plain step -> replayed

A tape repeats what a step did, so whatever Python decided by a value is decided for good. That a
model does not do so is not taken on trust: a tape is used only after it gave what the same step
gives without it, when every text had another length than in the recording.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atoll_kernels.cpu.tape import Tape, Unrepeatable, record

logger = logging.getLogger(__name__)

# Hidden states and logits.
Outputs = tuple[Tensor, Tensor]
Lengths = npt.NDArray[np.int32]


@dataclass
class _Recorded:
    tape: Tape
    outputs: Outputs
    lengths: Lengths
    is_checked: bool = False


class TapedSteps:
    """Runs the steps of one engine; ``step(size)`` computes one over buffers that never move."""

    def __init__(self, step: Callable[[int], Outputs]) -> None:
        self._step = step
        self._recorded: dict[int, _Recorded] = {}
        self._is_warm = self._is_given_up = False

    @property
    def num_checked(self) -> int:
        """Sizes that are replayed."""
        return sum(recorded.is_checked for recorded in self._recorded.values())

    def run(self, size: int, lengths: Lengths) -> Outputs:
        """A step of ``size`` rows; the next one of that size overwrites what this one returns.

        lengths: (size,) tokens of each row's text, 0 in rows of padding.
        """
        recorded = self._recorded.get(size)
        if recorded is not None and recorded.is_checked:
            recorded.tape.replay()
            return recorded.outputs
        if self._is_given_up or not self._is_warm:
            # What is made once (tables of angles) is no part of a tape.
            self._is_warm = True
            return self._step(size)
        return self._record(size, lengths) if recorded is None else self._check(recorded, lengths)

    def _record(self, size: int, lengths: Lengths) -> Outputs:
        try:
            outputs, tape = record(lambda: self._step(size))
        except Unrepeatable as error:
            self._give_up(f"{error} depends on the data")
            return self._step(size)
        self._recorded[size] = _Recorded(tape, outputs, lengths.copy())
        return outputs

    def _check(self, recorded: _Recorded, lengths: Lengths) -> Outputs:
        size = len(lengths)
        expected = self._step(size)
        used = (lengths > 0) | (recorded.lengths > 0)
        if not (lengths != recorded.lengths)[used].all():
            return expected
        recorded.tape.replay()
        recorded.is_checked = all(map(_are_equal, recorded.outputs, expected))
        if not recorded.is_checked:
            self._give_up("a replayed step differs from a plain one")
            # The replay may have written anything to the cache.
            return self._step(size)
        return expected

    def _give_up(self, reason: str) -> None:
        self._recorded.clear()
        self._is_given_up = True
        logger.warning("decoding steps run kernel by kernel: %s", reason)


def _are_equal(found: Tensor, expected: Tensor) -> bool:
    """To the bit, but for the kind of NaN."""
    return torch.allclose(found, expected, rtol=0, atol=0, equal_nan=True)

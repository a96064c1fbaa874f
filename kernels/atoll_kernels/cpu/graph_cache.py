"""Graphs of steps of a few shapes, each checked before it is used.

    plain -> recorded -> checked against a plain step -> replayed

A graph repeats the calls of the recorded step, even if Python chose them by some value. So it is
used only once its results have equalled those of a plain step, on other inputs than the recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atoll_kernels import dispatch
from atoll_kernels.cpu import native
from atoll_kernels.cpu.graph import CpuGraph, Unrepeatable, record

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
Outputs = tuple[Tensor, ...]
# The values that control flow might depend on.
GraphInputs = npt.NDArray[np.integer[Any]]


def refusal(dtype: torch.dtype) -> str | None:
    """Why steps of this dtype cannot be recorded; None: they can.

    The reference attention reads lengths on the host, so every call must have a native kernel.
    """
    policy = dispatch.policy()
    if policy.disable_custom_kernels or policy.family not in (None, "cpu"):
        return "custom kernels are switched off"
    if native.library() is None:
        return "there are no native kernels here"
    taken = (torch.float32, torch.bfloat16)
    return None if dtype in taken else f"no native kernel takes {dtype}"


@dataclass
class _Recorded:
    graph: CpuGraph
    outputs: Outputs
    inputs: GraphInputs
    is_checked: bool = False


class CheckedGraphs(Generic[K]):
    """``step(shape)`` computes over buffers of that shape, whose memory is fixed.

    is_other: whether inputs differ from the recorded ones in every value that control flow might
    depend on. kept: what a step changes and reads again is kept until the function is called that
    it returns, which restores it. Call it in inference mode, from one thread.
    """

    def __init__(
        self,
        step: Callable[[K], Outputs],
        is_other: Callable[[GraphInputs, GraphInputs], bool],
        kept: Callable[[K], Callable[[], None]] = lambda _: lambda: None,
    ) -> None:
        self._step, self._is_other, self._kept = step, is_other, kept
        self._recorded: dict[K, _Recorded] = {}
        self._is_warm = self._is_given_up = False

    @property
    def num_checked(self) -> int:
        """Shapes that are replayed."""
        return sum(recorded.is_checked for recorded in self._recorded.values())

    def is_unchecked(self, shape: K) -> bool:
        """Whether a shape is recorded but not yet checked."""
        recorded = self._recorded.get(shape)
        return recorded is not None and not recorded.is_checked

    def run(self, shape: K, inputs: GraphInputs) -> Outputs:
        """Runs a step; the next one of that shape overwrites the results."""
        recorded = self._recorded.get(shape)
        if recorded is not None and recorded.is_checked:
            recorded.graph.replay()
            return recorded.outputs
        if self._is_given_up or not self._is_warm:
            # The first step may compute what is cached for later ones, such as tables of angles.
            self._is_warm = True
            return self._step(shape)
        if recorded is None:
            return self._record(shape, inputs)
        return self._check(shape, recorded, inputs)

    def _record(self, shape: K, inputs: GraphInputs) -> Outputs:
        library = native.library()
        assert library is not None, "refusal() checked it"
        restore = self._kept(shape)
        try:
            outputs, graph = record(lambda: self._step(shape), library.replay)
        except Unrepeatable as error:
            self._give_up(f"{error} depends on the data")
            restore()
            return self._step(shape)
        self._recorded[shape] = _Recorded(graph, outputs, inputs.copy())
        return outputs

    def _check(self, shape: K, recorded: _Recorded, inputs: GraphInputs) -> Outputs:
        restore = self._kept(shape)
        expected = self._step(shape)
        if not self._is_other(inputs, recorded.inputs):
            return expected
        restore()
        recorded.graph.replay()
        recorded.is_checked = all(map(_are_equal, recorded.outputs, expected))
        if not recorded.is_checked:
            self._give_up("a replayed step differs from a plain one")
            # The replay may have written wrong values to the KV cache.
            restore()
            return self._step(shape)
        return expected

    def _give_up(self, reason: str) -> None:
        self._recorded.clear()
        self._is_given_up = True
        logger.warning("steps run kernel by kernel: %s", reason)


def _are_equal(found: Tensor, expected: Tensor) -> bool:
    """Equal bits, except for the payload of NaN."""
    return torch.allclose(found, expected, rtol=0, atol=0, equal_nan=True)

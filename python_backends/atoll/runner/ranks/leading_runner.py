"""A runner that sends every step to its followers before it computes its own part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from atoll.errors import RankLost
from atoll.runner.model import Decoder
from atoll.runner.model_runner import Computed, ModelRunner
from atoll.runner.ranks.messages import Cache, Capture, Reset, Step
from atoll.runner.ranks.team import Team
from atoll.runner.states import NO_STATES, StateSize
from atoll.runner.step_input import StepInput
from atoll.sampling.sampler import Sampler


class LeadingRunner(ModelRunner):
    """The runner of rank 0. A step that fails on any rank ends all of them."""

    def __init__(
        self,
        team: Team,
        model: Decoder,
        sampler: Sampler,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
        states: StateSize = NO_STATES,
    ) -> None:
        self._team = team
        team.send(Cache(num_blocks, block_size, states.num_slots))
        num_ranks = team.layout.size
        super().__init__(model, sampler, num_blocks, block_size, device, dtype, states, num_ranks)

    def buffer_decoding(self, max_batch_size: int) -> None:
        """See ``ModelRunner``."""
        self._team.send(Capture(max_batch_size))
        super().buffer_decoding(max_batch_size)

    def compute(self, step: StepInput) -> Computed:
        """See ``ModelRunner``.

        Raises:
            RankLost: a rank has failed.
        """
        self._team.send(Step(dataclasses.replace(step, sampling=None)))
        try:
            return super().compute(step)
        except Exception as error:
            raise self._team.failed(error) from None

    def reset(self) -> None:
        """See ``ModelRunner``; raises as ``compute``."""
        if self._team.failure is not None:
            raise self._team.failure
        self._team.send(Reset())
        super().reset()

    def watch(self, on_failed: Callable[[RankLost], None]) -> None:
        """See ``ModelRunner``."""
        self._team.watch(on_failed)

    def close(self) -> None:
        """See ``ModelRunner``."""
        self._team.close()

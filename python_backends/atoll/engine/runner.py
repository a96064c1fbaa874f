"""The interface of what computes the engine's steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from atoll.errors import RankLost
from atoll.runner.step_input import StepInput, StepOutput


class Runner(Protocol):
    """Computes steps; implemented by ``runner.model_runner.ModelRunner``.

    windows: of the groups of layers; see ``engine.kv_cache``. num_state_slots,
    num_snapshots: of recurrent layers; see ``engine.state_slots``.
    """

    num_blocks: int
    block_size: int
    windows: tuple[int | None, ...]
    num_state_slots: int
    num_snapshots: int

    def adapter_number(self, name: str | None) -> int: ...

    def key_length(self, num_prompt_tokens: int) -> int | None: ...

    def enter_thread(self) -> None: ...

    def run(self, step: StepInput) -> StepOutput: ...

    def reset(self) -> None: ...

    def watch(self, on_failed: Callable[[RankLost], None]) -> None: ...

    def close(self) -> None: ...

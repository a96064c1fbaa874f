"""The engine's rate of decoding alone, whatever the prompts took before."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.measure import Work

from atoll.config import Settings
from atoll.engine.core import EngineCore
from atoll.engine.request import Request, SamplingOptions
from atoll.engine.thread import Engine
from atoll.serving.engine_loader import load_engine
from atoll.serving.triton.instance import in_temporary_thread

# Prompts, tokens per answer -> the tokens of the time in which all answers grew.
Decode = Callable[[Sequence[Sequence[int]], int], Work]


class _Answer:
    """A request's sink: when each token came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.ended = threading.Event()
        self.error: Exception | None = None

    def on_prompt(self, logprobs: object) -> None:
        """No prompt's logprobs are requested."""

    def on_token(self, token: Any) -> None:
        """Keeps the time."""
        self.times.append(time.perf_counter())

    def on_finished(self, outcome: object) -> None:
        """Ends the answer."""
        self.ended.set()

    def on_failed(self, error: Exception) -> None:
        """Keeps the error for the thread that waits."""
        self.error = error
        self.ended.set()


def decoder(
    folder: Path, settings: dict[str, Any], bytes_per_token: int, state_bytes: int
) -> Decode:
    """Greedy answers of an engine without prefix caching.

    bytes_per_token, state_bytes: what a token's keys and values and a text's state should take.

    Raises:
        AssertionError: what is allocated takes another number of bytes.
    """
    loaded = in_temporary_thread(load_engine, Settings(prefix_caching=False, **settings), folder)
    runner: Any = loaded.engine._core._runner
    kept = sum(x.nbytes for layer in runner.kv_cache for x in (layer.keys, layer.values))
    assert kept == bytes_per_token * runner.num_blocks * runner.block_size, (folder, kept)
    kept = sum(x.nbytes for layer in runner.states for x in layer)
    assert kept == state_bytes * runner.num_state_slots, (folder, kept)
    # Prompts are not measured: they need not wait for answers that have begun.
    limits = replace(loaded.limits, max_mixed_prefill_tokens=loaded.limits.max_batch_prefill_tokens)
    engine = Engine(EngineCore(runner, limits, prefix_caching=False))
    engine.start()
    names = itertools.count()

    def decode(prompts: Sequence[Sequence[int]], count: int) -> Work:
        answers = [_Answer() for _ in prompts]
        options = SamplingOptions(max_new_tokens=count, ignore_eos=True)
        for prompt, answer in zip(prompts, answers, strict=True):
            engine.submit(Request(f"{next(names)}", tuple(prompt), options, answer))
        for answer in answers:
            answer.ended.wait()
            if answer.error is not None:
                raise answer.error
        return shared_time([answer.times for answer in answers])

    return decode


def shared_time(answers: Sequence[Sequence[float]]) -> Work:
    """Tokens that came after every answer had one, until the first answer was complete; and the
    seconds that this took. answers: times of tokens."""
    start, end = max(times[0] for times in answers), min(times[-1] for times in answers)
    units = sum(start < moment <= end for times in answers for moment in times)
    assert units, "the last answer began after the first had ended: too few tokens per answer"
    return Work(units, end - start)

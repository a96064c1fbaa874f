"""A race between kernels, and how a kernel is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.measure import Contestant, call_times_ms

_SECONDS = 0.03


@dataclass(frozen=True)
class Case:
    """One race. ceilings: the most that each contestant could reach, in the unit."""

    title: str
    unit: str
    contestants: Mapping[str, Contestant]
    baseline: str
    ceilings: Mapping[str, float]


def repeated(work: Callable[[], object], units: float) -> Contestant:
    """Calls ``work``, of ``units`` each, for a while; the units at the speed of the median call.

    A call that was interrupted by another process takes a hundred times as long as the others.
    """

    def run() -> float:
        start = time.perf_counter()
        times: list[float] = []
        while len(times) < 5 or time.perf_counter() - start < _SECONDS:
            times += call_times_ms(work, 1)
        return 1000 * units * (time.perf_counter() - start) / statistics.median(times)

    return run

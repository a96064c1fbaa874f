"""A race between kernels, and how each of them is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.measure import Contestant

_SECONDS = 0.03


@dataclass(frozen=True)
class Case:
    """One race. ceilings: what each contestant could reach at most, in the unit."""

    title: str
    unit: str
    contestants: Mapping[str, Contestant]
    baseline: str
    ceilings: Mapping[str, float]


def repeated(work: Callable[[], object], units: float) -> Contestant:
    """Runs ``work``, ``units`` each time, for a while, and counts what it does at its median pace.

    A call during which the machine did something else takes a hundred times as long as the others.
    """

    def run() -> float:
        start = time.perf_counter()
        times: list[float] = []
        while len(times) < 5 or time.perf_counter() - start < _SECONDS:
            before = time.perf_counter()
            work()
            times.append(time.perf_counter() - before)
        return units * (time.perf_counter() - start) / statistics.median(times)

    return run

"""What a soak has found, and what of it is wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from samples import Sample
from served import PASSING, SLEEPER
from tally import Ended

# A process is flat if it grows by less than the larger of these in an hour.
MAX_MB_PER_HOUR, MAX_SHARE_PER_HOUR = 10.0, 0.02
# An idle process may have this many more files and threads than when it was idle before.
MAX_MORE = 2
PASSING_MODELS = (PASSING, SLEEPER)
# What a log must not have.
_BAD_LINE = re.compile(r"Traceback|Signal \(|\bERROR\b|has ended|starting again", re.IGNORECASE)


@dataclass
class Soak:
    """samples: of the whole time. spans: seconds, on their clock, of warm-up and load. before,
    after: when nothing was asked any more, after each. http: as the clients count; counters: as
    the gateway does, from ``counted_before`` on."""

    minutes: float
    clients: int
    seed: int
    samples: Sequence[Sample]
    spans: Sequence[tuple[float, float]]
    before: Sample
    after: Sample
    begun: int
    ends: Counter[tuple[str, str]]
    longest: dict[str, float]
    defects: Sequence[Ended]
    http: Counter[tuple[str, int]]
    counted_before: dict[str, dict[str, float]]
    counters: dict[str, dict[str, float]]
    changes: Sequence[tuple[float, str]]
    left_in_shm: Sequence[str] = ()
    log: str = ""
    grown: dict[str, Growth] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.grown = {name: self._growth(name) for name in self.staying()}

    def staying(self) -> list[str]:
        """Names of processes that are there from the beginning to the end."""
        return [name for name in self.before.processes if name not in PASSING_MODELS]

    def loaded(self) -> list[Sample]:
        """Those of the time under load after the warm-up."""
        began, ended = self.spans[-1]
        return [sample for sample in self.samples if began <= sample.seconds <= ended]

    def _growth(self, name: str) -> Growth:
        from scipy.stats import theilslopes  # seconds

        rows = [(s.seconds, s.processes[name]) for s in self.loaded() if name in s.processes]
        hours = [seconds / 3600 for seconds, _ in rows]
        own = [held.own_mb for _, held in rows]
        slope = float(theilslopes(own, hours)[0]) if len(rows) > 2 else 0.0
        return Growth(slope, sum(own) / max(1, len(own)))


class Growth(NamedTuple):
    """Of a process' own memory under load: the median of the slopes between two samples."""

    mb_per_hour: float
    mean_mb: float

    @property
    def limit(self) -> float:
        """MB in an hour."""
        return max(MAX_MB_PER_HOUR, MAX_SHARE_PER_HOUR * self.mean_mb)


def problems(soak: Soak) -> list[str]:
    """Everything that is not as it should be."""
    found = [f"defect: {defect}" for defect in soak.defects]
    if soak.ends.total() != soak.begun:
        found.append(f"{soak.begun} requests begun, {soak.ends.total()} ended")
    for name, growth in soak.grown.items():
        if growth.mb_per_hour > growth.limit:
            found.append(f"{name} grows by {growth.mb_per_hour:.1f} MB an hour")
    found += _left(soak) + _miscounted(soak)
    found += [f"log: {line}" for line in soak.log.splitlines() if _BAD_LINE.search(line)]
    return found


def _left(soak: Soak) -> list[str]:
    found = [f"idle: {name} is {value:g}" for name, value in soak.after.busy.items() if value]
    before, after = soak.before, soak.after
    for name in soak.staying():
        if name not in after.processes or after.processes[name].pid != before.processes[name].pid:
            found.append(f"{name} is not the process that it was")
            continue
        for what in ("files", "threads"):
            was, now = (getattr(s.processes[name], what) for s in (before, after))
            if now > was + MAX_MORE:
                found.append(f"{name} has {now} {what}, and had {was}")
    # A model that sleeps at one of the two times has none.
    awake = [sum(name in s.processes for name in PASSING_MODELS) for s in (before, after)]
    if after.shm_files - awake[1] != before.shm_files - awake[0]:
        found.append(f"{after.shm_files} files in /dev/shm, and {before.shm_files} before")
    return found + [f"after the end in /dev/shm: {name}" for name in soak.left_in_shm]


def _miscounted(soak: Soak) -> list[str]:
    """Whether the gateway has counted each HTTP request once. Lines of batches are requests."""
    counted: Counter[tuple[str, int]] = Counter()
    name = "atoll_gateway_requests_total"
    before = soak.counted_before.get(name, {})
    for labels, value in soak.counters[name].items():
        path, status = re.findall(r'"([^"]*)"', labels)
        counted[path, int(status)] = int(value - before.get(labels, 0))
    lines = soak.counters["atoll_gateway_batch_lines_total"]
    counted["/v1/chat/completions", 200] -= int(sum(lines.values()))
    found = []
    for path in sorted({path for path, _ in soak.http}):
        ours = {status: n for (at, status), n in soak.http.items() if at == path}
        theirs = {status: n for (at, status), n in counted.items() if at == path}
        left = ours.pop(0, 0)
        # One that was left may have been answered, or never have arrived.
        missing = {s: n - theirs.get(s, 0) for s, n in ours.items() if n > theirs.get(s, 0)}
        if missing or not sum(ours.values()) <= sum(theirs.values()) <= sum(ours.values()) + left:
            found.append(f"{path}: clients saw {ours} and left {left}, the gateway counts {theirs}")
    return found

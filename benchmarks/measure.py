"""How every benchmark measures: contestants take turns in one run, and medians are compared.

A contestant is a name and a function that does the whole workload once and returns how many units
(sentences, tokens) it did. Turns are interleaved, so that a slow minute of the machine hits all.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Contestant = Callable[[], float]


@dataclass
class Result:
    """Units per second of every round, and the contestant's name."""

    name: str
    unit: str
    rates: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Units per second."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """(max - min) / median of the rounds."""
        return (max(self.rates) - min(self.rates)) / self.median


def race(contestants: Mapping[str, Contestant], unit: str, rounds: int = 3) -> list[Result]:
    """Runs every contestant once to warm up, then ``rounds`` times in turn."""
    results = {name: Result(name, unit) for name in contestants}
    for contestant in contestants.values():
        contestant()
    for number in range(rounds):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            units = contestant()
            results[name].rates.append(units / (time.perf_counter() - start))
            print(f"  round {number + 1}: {name}: {results[name].rates[-1]:.1f} {unit}", flush=True)
    return list(results.values())


def table(results: Sequence[Result], baseline: str) -> str:
    """A markdown table, fastest first, with the ratio to ``baseline``."""
    base = next(r.median for r in results if r.name == baseline)
    unit = results[0].unit
    lines = [f"| | {unit} | x {baseline} | spread |", "|-|-:|-:|-:|"]
    for r in sorted(results, key=lambda r: -r.median):
        lines.append(f"| {r.name} | {r.median:.1f} | {r.median / base:.2f} | {r.spread:.0%} |")
    return "\n".join(lines)


def machine() -> str:
    """The processor, its cores and the date, in one line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}, {date.today()}"


def versions(packages: Sequence[str]) -> str:
    """Installed versions of the packages that took part."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def save(path: Path, results: Mapping[str, Sequence[Result]]) -> None:
    """Writes every round of every race as JSON, with the machine."""
    races = {title: [asdict(r) for r in race_] for title, race_ in results.items()}
    path.write_text(json.dumps({"machine": machine(), "races": races}, indent=1) + "\n")

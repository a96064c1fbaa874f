"""How every benchmark measures: contestants take turns in one run, and medians are compared.

A contestant is a name and a function that does the whole workload once. It returns how many units
(sentences, tokens) it processed or, if it runs in another process (``apart.py``), a ``Work``. Turns
are interleaved, so that a slow minute of the machine affects all contestants.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple


class Work(NamedTuple):
    """The units that a contestant processed, and the seconds it took by its own clock."""

    units: float
    seconds: float


Contestant = Callable[[], float | Work]


@dataclass
class Result:
    """Units per second of every round, and the contestant's name.

    cells: further columns of its table, by their title.
    """

    name: str
    unit: str
    rates: list[float] = field(default_factory=list)
    cells: dict[str, str] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Units per second."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """(max - min) / median of the rounds."""
        return (max(self.rates) - min(self.rates)) / self.median


def run(contestant: Contestant) -> Work:
    """One run of a contestant, timed here unless it times itself."""
    start = time.perf_counter()
    work = contestant()
    return work if isinstance(work, Work) else Work(work, time.perf_counter() - start)


def race(contestants: Mapping[str, Contestant], unit: str, rounds: int = 3) -> list[Result]:
    """Runs every contestant once to warm up, then ``rounds`` times in turn."""
    results = {name: Result(name, unit) for name in contestants}
    for contestant in contestants.values():
        contestant()
    for number in range(rounds):
        for name, contestant in contestants.items():
            work = run(contestant)
            results[name].rates.append(work.units / work.seconds)
            print(f"  round {number + 1}: {name}: {results[name].rates[-1]:.1f} {unit}", flush=True)
    return list(results.values())


def call_times_ms(function: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of each of ``count`` calls."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return times


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; all columns but the first are aligned right."""
    lines = [f"| {' | '.join(titles)} |", f"|-|{'-:|' * (len(titles) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def table(results: Sequence[Result], baseline: str) -> str:
    """A markdown table, fastest first, with the ratio to ``baseline``."""
    more = list(dict.fromkeys(title for r in results for title in r.cells))
    base = next(r.median for r in results if r.name == baseline)
    titles = ["", results[0].unit, f"x {baseline}", "spread", *more]
    rows = []
    for r in sorted(results, key=lambda r: -r.median):
        cells = [r.name, f"{r.median:.1f}", f"{r.median / base:.2f}", f"{r.spread:.0%}"]
        rows.append([*cells, *(r.cells.get(title, "") for title in more)])
    return markdown(titles, rows)


@contextmanager
def bar_charts(path: Path, num_bars: Sequence[int]) -> Iterator[list[Any]]:
    """Axes below each other, with room for that many horizontal bars each; written as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # The same figures give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "atoll", "font.size": 9})
    heights = [0.6 + 0.24 * number for number in num_bars]
    figure, axes = pyplot.subplots(
        len(heights), 1, figsize=(8, sum(heights)), height_ratios=heights, squeeze=False
    )
    for axis in axes[:, 0]:
        axis.spines[["top", "right"]].set_visible(False)
    yield list(axes[:, 0])
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def plot(path: Path, races: Mapping[str, Sequence[Result]]) -> None:
    """Horizontal bars of every race, fastest on top, as SVG; Atoll's are highlighted."""
    with bar_charts(path, [len(results) for results in races.values()]) as axes:
        for axis, (title, results) in zip(axes, races.items(), strict=True):
            ordered = sorted(results, key=lambda r: r.median)
            colors = ["#0b7a75" if r.name.startswith("Atoll") else "#b8c4c2" for r in ordered]
            bars = axis.barh([r.name for r in ordered], [r.median for r in ordered], color=colors)
            axis.bar_label(bars, fmt="%.0f", padding=3)
            axis.set_title(f"{title}, {results[0].unit}", loc="left", fontsize=10)
            axis.margins(x=0.1)


def machine() -> str:
    """The processor, its cores and the date, in one line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}, {date.today()}"


def versions(packages: Sequence[str]) -> str:
    """Installed versions of the packages."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def write(
    out: Path,
    name: str,
    page: Sequence[str],
    races: Mapping[str, Sequence[Result]],
    others: Mapping[str, Sequence[Result]] | None = None,
) -> str:
    """Writes ``name``.json (all rounds, and the machine), ``.svg`` and ``.md``; returns the page.

    page: its paragraphs. others: races that are not plotted.
    """
    out.mkdir(parents=True, exist_ok=True)
    everything = {**(others or {}), **races}
    rounds = {title: [asdict(one) for one in results] for title, results in everything.items()}
    data = json.dumps({"machine": machine(), "races": rounds}, indent=1)
    (out / f"{name}.json").write_text(data + "\n")
    plot(out / f"{name}.svg", races)
    text = "\n\n".join(page) + "\n"
    (out / f"{name}.md").write_text(text)
    return text

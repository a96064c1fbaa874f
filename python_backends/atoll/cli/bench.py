"""``atoll bench``: how fast a running server answers, at several levels of concurrency."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from atoll.cli.load import measure
from atoll.cli.options import (
    URL,
    AsJson,
    Key,
    ServedName,
    Timeout,
    Url,
    connect,
    has_http,
    print_json,
)
from atoll.cli.tables import print_table
from atoll.errors import ConfigError
from atoll.launcher.perf_analyzer import Load, PerfAnalyzer

_COLUMNS = {
    "concurrency": "at once",
    "requests_per_s": "requests/s",
    "tokens_per_s": "tokens/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "first_p50_ms": "first p50 ms",
}


def bench(
    model: ServedName,
    concurrency: Annotated[
        str, typer.Option(help="Comma-separated levels of concurrency, one row of the table each.")
    ] = "1,4,16",
    requests: Annotated[int, typer.Option(min=1, help="Requests per row.")] = 100,
    words: Annotated[int, typer.Option(min=1, help="Words per text.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens per generated answer.")] = 32,
    plot: Annotated[
        Path | None,
        typer.Option(help="File to plot throughput and latency to (.svg, .png, .pdf)."),
    ] = None,
    own_load: Annotated[
        bool, typer.Option(help="Use Atoll's client even if perf_analyzer is installed.")
    ] = False,
    url: Url = URL,
    key: Key = None,
    timeout: Timeout = 600.0,
    as_json: AsJson = False,
) -> None:
    """Measure a model of a running server with perf_analyzer, or with Atoll's own client."""
    levels = _levels(concurrency)
    draw = _plotter(plot) if plot else None
    # perf_analyzer cannot send a key.
    analyzer, tool = _analyzer(own_load or key is not None, url)
    task = served_task(url, model, timeout, key)
    log = Console(stderr=True)
    found = []
    with log.status(f"measuring {model}") as status:
        for level in levels:
            status.update(f"measuring {model}: {level} at once")
            load = measure(
                analyzer, url, model, task, concurrency=level, requests=max(requests, level),
                words=words, max_tokens=max_tokens, timeout_s=timeout, key=key,
            )  # fmt: skip
            found.append(_row(level, load, task, max_tokens))
    if draw is not None:
        draw(model, found)
    if as_json:
        print_json({"model": model, "task": task, "tool": tool, "rows": found})
        return
    shown = {key: title for key, title in _COLUMNS.items() if key in found[0]}
    print_table(
        tuple(shown.values()),
        [
            [f"{row[key]:,.1f}" if key != "concurrency" else str(row[key]) for key in shown]
            for row in found
        ],
        title=f"{model}, {words} words a text, measured by {tool}",
        numbers=True,
    )


def served_task(url: str, model: str, timeout: float, key: str | None = None) -> str:
    """The task of a served model.

    Raises:
        ConfigError: no such model of Atoll's is served.
    """
    with connect(url, timeout, key) as client:
        tasks = {found.name: found.task for found in client.models()}
    if model not in tasks:
        raise ConfigError(f"{url} serves no {model!r}; it serves {', '.join(tasks) or 'none'}")
    return tasks[model]


def _levels(text: str) -> list[int]:
    try:
        levels = [int(part) for part in text.split(",")]
    except ValueError:
        levels = []
    if not levels or min(levels) < 1:
        raise ConfigError(f"--concurrency {text}: write numbers from 1, by commas")
    return levels


def _analyzer(own_load: bool, url: str) -> tuple[PerfAnalyzer | None, str]:
    """perf_analyzer and the name of the load generator; None if our own client is used."""
    reason = ""
    if has_http(url):
        reason = "perf_analyzer is used over gRPC only, which streams"
    elif not own_load:
        try:
            return PerfAnalyzer.find(), "perf_analyzer"
        except ConfigError as error:
            reason = str(error)
    if reason and not own_load:
        Console(stderr=True, soft_wrap=True).print(f"own load: {reason}", style="dim")
    return None, "atoll_client"


def _row(level: int, load: Load, task: str, max_tokens: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "concurrency": level,
        "requests_per_s": load.requests_per_s,
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
    }
    if task == "generate":
        # Every answer has exactly this many: the end of text is ignored.
        row["tokens_per_s"] = load.requests_per_s * max_tokens
        row["first_p50_ms"] = 1000 * statistics.median(load.first_s)
    return row


def _plotter(path: Path) -> Callable[[str, Sequence[dict[str, Any]]], None]:
    """A function that plots, looked up before the measurement so that none is wasted.

    Raises:
        ConfigError: matplotlib is not installed, or the folder does not exist.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError("--plot needs matplotlib: pip install matplotlib") from error
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder {path.parent}")

    def draw(model: str, rows: Sequence[dict[str, Any]]) -> None:
        levels = [row["concurrency"] for row in rows]
        figure = Figure(figsize=(8, 3.5), layout="constrained")
        speed, latency = figure.subplots(1, 2)
        speed.plot(levels, [row["requests_per_s"] for row in rows], marker="o")
        speed.set(title=model, xlabel="requests at once", ylabel="requests/s", ylim=(0, None))
        for key in ("p50_ms", "p99_ms"):
            latency.plot(levels, [row[key] for row in rows], marker="o", label=_COLUMNS[key])
        latency.set(xlabel="requests at once", ylabel="ms", ylim=(0, None))
        latency.legend()
        figure.savefig(path)

    return draw

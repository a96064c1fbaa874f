"""Results of the GPU benchmark: tables in the terminal, a page, and a plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.measure import bar_charts, markdown

Phases = Mapping[str, Mapping[str, Any]]

# Columns of a phase's table; cells without a value are empty.
COLUMNS: dict[str, tuple[str, ...]] = {
    "environment": ("name", "value"),
    "correctness": ("kernel", "case", "dtype", "error", "tolerance", "correct", "failed"),
    "kernels": ("kernel", "case", "dtype", "us", "limit_us", "share", "goal", "peers", "failed"),
    "decode": (
        "model", "batch", "context", "graphs", "us", "us_eager", "tokens_per_s",
        "limit_tokens_per_s", "share", "goal", "failed",
    ),
    "prefill": (
        "model", "prompts", "context", "us", "tokens_per_s", "limit_tokens_per_s", "share",
        "failed",
    ),
    "encoder": (
        "model", "length", "batch", "us", "sequences_per_s", "limit_sequences_per_s", "share",
        "goal", "failed",
    ),
    "server": (
        "model", "dtype", "concurrency", "tokens_per_s", "first_token_ms", "per_token_ms",
        "skipped", "failed",
    ),
}  # fmt: skip
_SHARES = ("share", "goal")


def print_tables(phases: Phases) -> None:
    """One table per phase that has run."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    for name, phase in phases.items():
        state = "" if phase["is_complete"] else ", cut off"
        title = f"{name} ({phase['mode']}, {phase['seconds']:.0f} s{state})"
        columns = [c for c in COLUMNS[name] if any(c in row for row in phase["rows"])]
        table = Table(*columns, title=title, title_justify="left")
        for row in phase["rows"]:
            is_wrong = "failed" in row or row.get("correct") is False
            table.add_row(*(_cell(c, row.get(c)) for c in columns), style="red" if is_wrong else "")
        console.print(table)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column in _SHARES:
        return f"{value:.0%}"
    if column == "peers":
        return ", ".join(f"{k} {v:.4g}" for k, v in value.items() if not isinstance(v, str))
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def page(phases: Phases) -> str:
    """The same as markdown: the environment, and a table for each phase that has rows."""
    parts = ["# On a GPU"]
    if phases.get("environment", {}).get("is_complete"):
        parts.append(_device(phases["environment"]))
    parts.append(
        "`python benchmarks/gpu/gpu.py`. Limits are the least time that products and traffic "
        "leave on this device, both measured; kernels are timed with the caches emptied before "
        "every call."
    )
    parts.append("![Shares of the device's limits](gpu.svg)")
    for name, phase in phases.items():
        if name == "environment" or not phase["rows"]:
            continue
        cut = "" if phase["is_complete"] else " (stopped at its deadline; the rest was not run)"
        table = _errors(phase) if name == "correctness" else _markdown(name, phase)
        parts += [f"## {name}{cut}", table]
    return "\n\n".join(parts) + "\n"


def _device(environment: Mapping[str, Any]) -> str:
    found = {row["name"]: row["value"] for row in environment["rows"]}
    return (
        f"{found.get('name')}, {environment['started'][:10]}; {found['versions']}, "
        f"CUDA {found['CUDA']}; {found['bf16 products, TFLOP/s']:.0f} TFLOP/s in bfloat16, "
        f"{found['memory, GB/s']:,.0f} GB/s."
    )


def _markdown(name: str, phase: Mapping[str, Any]) -> str:
    columns = [c for c in COLUMNS[name] if any(row.get(c) is not None for row in phase["rows"])]
    lines = [f"| {' | '.join(columns)} |", f"|{'-|' * len(columns)}"]
    lines += [f"| {' | '.join(_cell(c, row.get(c)) for c in columns)} |" for row in phase["rows"]]
    return "\n".join(lines)


def _errors(phase: Mapping[str, Any]) -> str:
    """A row per kernel: its cases, and the largest error of each dtype as a share of the dtype's
    tolerance."""
    shares: dict[str, dict[str, list[float]]] = {}
    for row in phase["rows"]:
        share = row["error"] / (row["tolerance"] or 1.0) if "error" in row else float("inf")
        shares.setdefault(row["kernel"], {}).setdefault(row["dtype"], []).append(share)
    rows = []
    for kernel, found in shares.items():
        worst = (f"{max(found[d]):.0%}" if d in found else "" for d in ("fp32", "fp16", "bf16"))
        rows.append((kernel, str(sum(map(len, found.values()))), *worst))
    return (
        "Against float64, with outputs full of NaN beforehand: the largest error as a share of the "
        "tolerance (2e-6, 2e-3 and 1e-2 of the largest value).\n\n"
        + markdown(("kernel", "cases", "fp32", "fp16", "bf16"), rows)
    )


def plot(path: Path, phases: Phases) -> None:
    """Shares of the limit of all measured rows with their goals, as SVG; nothing without rows."""
    groups = {name: list(_bars(name, phase)) for name, phase in phases.items()}
    groups = {name: bars for name, bars in groups.items() if bars}
    if not groups:
        return
    with bar_charts(path, [len(bars) for bars in groups.values()]) as axes:
        for axis, (name, bars) in zip(axes, groups.items(), strict=True):
            labels, shares, goals = zip(*reversed(bars), strict=True)
            places = range(len(bars))
            drawn = axis.barh(places, shares, color="#0b7a75")
            axis.set_yticks(places, labels)
            axis.bar_label(drawn, [f"{share:.0%}" for share in shares], padding=3)
            for place, goal in zip(places, goals, strict=True):
                if goal is not None:
                    axis.plot([goal, goal], [place - 0.4, place + 0.4], color="#c2562d")
            axis.axvline(1.0, color="black", linewidth=0.8)
            axis.set_xlim(0, max(1.1, 1.1 * max(shares)))
            title = f"{name}, share of the device's limit ({phases[name]['mode']})"
            axis.set_title(title, loc="left")


def _bars(name: str, phase: Mapping[str, Any]) -> Iterator[tuple[str, float, float | None]]:
    """Label, share and goal of each row that has a share."""
    wanted = ("kernel", "case", "model", "length", "batch", "context")
    for row in phase["rows"]:
        if "share" in row:
            parts = [f"{k} {row[k]}" if not isinstance(row[k], str) else row[k]
                     for k in wanted if k in row]  # fmt: skip
            yield ", ".join(parts), row["share"], row.get("goal")

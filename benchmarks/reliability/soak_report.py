"""A soak's page, figures and plot."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

from harness.measure import machine, markdown
from samples import Held
from soak_checks import (
    MAX_MB_PER_HOUR,
    MAX_MORE,
    MAX_SHARE_PER_HOUR,
    PASSING_MODELS,
    Soak,
    problems,
)
from tally import ANSWERED, LEFT

# Samples in the JSON and the plot: every so many.
_EVERY = 3
_COLORS = ("#0b7a75", "#d1495b", "#edae49", "#30638e", "#7d5ba6", "#8d9f87", "#c06e52", "#444444")


def write(soak: Soak, out: Path) -> str:
    """``soak.json``, ``soak.svg`` and ``soak.md``; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "soak.json").write_text(json.dumps(_figures(soak), indent=1) + "\n")
    _plot(soak, out / "soak.svg")
    page = "\n\n".join(_page(soak)) + "\n"
    (out / "soak.md").write_text(page)
    return page


def _figures(soak: Soak) -> dict[str, Any]:
    rows = [
        {
            "seconds": round(sample.seconds),
            "shm_files": sample.shm_files,
            "load_average": round(sample.load, 1),
            "shm_mb": round(sample.shm_bytes / 2**20, 2),
            **sample.busy,
            "processes": {
                name: [held.pid, *(round(x, 1) for x in held[1:5]), *held[5:]]
                for name, held in sample.processes.items()
            },
        }
        for sample in soak.samples[::_EVERY]
    ]
    return {
        "machine": machine(),
        "minutes": soak.minutes,
        "clients": soak.clients,
        "seed": soak.seed,
        "spans_s": soak.spans,
        "requests": {f"{kind}: {end}": n for (kind, end), n in sorted(soak.ends.items())},
        "mb_per_hour": {name: round(g.mb_per_hour, 2) for name, g in soak.grown.items()},
        "problems": problems(soak),
        "columns": list(Held._fields),
        "samples": rows,
    }


def _page(soak: Soak) -> list[str]:
    wrong = problems(soak)
    loads = [sample.load for sample in soak.samples]
    warm_up = (soak.spans[0][1] - soak.spans[0][0]) / 60
    passing = " and ".join(f"`{name}`" for name in PASSING_MODELS)
    return [
        "# Half an hour of load",
        machine(),
        f"`python benchmarks/reliability/soak.py --minutes {soak.minutes:g} --out docs/benchmarks`",
        "Other programs ran on the same cores (load average "
        f"{min(loads):.0f} to {max(loads):.0f}): the figures judge what grows, not how fast it "
        "answers.",
        f"{soak.clients} clients ask every model by every interface for {soak.minutes:g} minutes; "
        f"the first {warm_up:.0f} are a warm-up. One request in six is left by its client, before "
        "the first byte or in the middle of the answer; some clients read slowly, some requests "
        "are wrong, some have too little time. Meanwhile models and an adapter are loaded, "
        f"reloaded and unloaded, again and again ({passing}). A request counts as answered if its "
        "answer is whole and, where it is greedy or an embedding, says what the first answer to "
        "the same request said.",
        "Everything was as it should be." if not wrong else "Not as it should be:",
        *(["\n".join(f"- {line}" for line in wrong)] if wrong else []),
        "![Memory, descriptors and threads over time](soak.svg)",
        "## Requests",
        f"{soak.begun:,} were begun, {soak.ends.total():,} ended. *Refused* is what wrong "
        "requests, and those for a model that is not loaded, have to be.",
        _requests(soak),
        "## Processes",
        "Memory that no other process has and that cannot be read from a file again, in MB of "
        "2**20 bytes. *MB an hour*: the median of the slopes between all pairs of samples under "
        f"load, after the warm-up. Flat means less than {MAX_MB_PER_HOUR:g} MB or "
        f"{MAX_SHARE_PER_HOUR:.0%} an hour. *MB of files*: pages that only this process has, but "
        "that the system can take back: of a generator, the word vectors that texts have needed so "
        "far, which become more with each new word. "
        "*idle* compares the moment after the warm-up with that after the load, when nothing is "
        f"asked: at most {MAX_MORE} more are allowed, since pools of threads begin and end some.",
        _processes(soak),
        "## Models that come and go",
        "Each load is a new process.",
        _passing(soak),
        f"In /dev/shm were {soak.before.shm_files} files ({soak.before.shm_bytes / 2**20:.1f} MB) "
        f"after the warm-up, {soak.after.shm_files} ({soak.after.shm_bytes / 2**20:.1f} MB) after "
        f"the load, and {len(soak.left_in_shm)} after the server's end.",
    ]


def _requests(soak: Soak) -> str:
    rows = []
    for kind in sorted({kind for kind, _ in soak.ends}):
        ends = {end: n for (of, end), n in soak.ends.items() if of == kind}
        answered, left = ends.pop(ANSWERED, 0), ends.pop(LEFT, 0)
        refused = ", ".join(f"{n} x {end.split()[-1]}" for end, n in sorted(ends.items())
                            if end.startswith("refused"))  # fmt: skip
        other = sum(n for end, n in ends.items() if not end.startswith("refused"))
        rows.append([kind, f"{answered:,}", f"{left:,}", refused, str(other),
                     f"{soak.longest[kind]:.1f}"])  # fmt: skip
    titles = ["", "answered", "left", "refused", "broken, late or wrong", "longest, s"]
    return markdown(titles, rows)


def _processes(soak: Soak) -> str:
    rows = []
    for name, growth in soak.grown.items():
        was, now = soak.before.processes[name], soak.after.processes.get(name)
        if now is None:
            continue
        rows.append([
            name, f"{growth.mean_mb:.1f}", f"{growth.mb_per_hour:+.1f}",
            f"{was.own_mb:.1f} → {now.own_mb:.1f}", f"{was.file_mb:.1f} → {now.file_mb:.1f}",
            f"{was.files} → {now.files}",
            f"{was.threads} → {now.threads}",
        ])  # fmt: skip
    titles = [
        "",
        "mean MB",
        "MB an hour",
        "idle MB",
        "idle, of files",
        "idle descriptors",
        "idle threads",
    ]
    return markdown(titles, rows)


def _passing(soak: Soak) -> str:
    rows = []
    for name in PASSING_MODELS:
        most: dict[int, float] = {}
        for sample in soak.samples:
            if (held := sample.processes.get(name)) is not None:
                most[held.pid] = max(most.get(held.pid, 0.0), held.own_mb)
        sizes = list(most.values())
        if sizes:
            rows.append([name, str(len(sizes)), f"{sizes[0]:.1f}", f"{sizes[-1]:.1f}",
                         f"{max(sizes):.1f}"])  # fmt: skip
    return markdown(["", "processes seen", "most MB, first", "last", "of all"], rows)


def _plot(soak: Soak, path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # The same figures give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "atoll", "font.size": 9})
    panels: dict[str, Callable[[Held], float]] = {
        "Own memory, MB": lambda held: held.own_mb,
        "Open descriptors": lambda held: held.files,
        "Threads": lambda held: held.threads,
    }
    figure, axes = pyplot.subplots(len(panels) + 1, 1, figsize=(8, 11), sharex=True)
    samples = soak.samples[::_EVERY]
    for axis, (title, value) in zip(axes, panels.items(), strict=False):
        for name, color in zip_longest(soak.staying(), _COLORS, fillvalue=_COLORS[-1]):
            rows = [(s.seconds / 60, value(s.processes[name])) for s in samples
                    if name in s.processes]  # fmt: skip
            if rows:
                axis.plot(*zip(*rows, strict=True), label=name, color=color, linewidth=1.2)
        axis.set_title(title, loc="left", fontsize=10)
    axes[0].legend(fontsize=7, ncols=2, frameon=False)
    minutes = [sample.seconds / 60 for sample in samples]
    axes[-1].plot(minutes, [s.shm_files for s in samples], color=_COLORS[0], label="files")
    axes[-1].plot(minutes, [s.shm_bytes / 2**20 for s in samples], color=_COLORS[1], label="MB")
    axes[-1].set_title("/dev/shm", loc="left", fontsize=10)
    axes[-1].legend(fontsize=7, frameon=False)
    axes[-1].set_xlabel("minutes; grey: nothing is asked")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(bottom=0)
        for (_, ended), (began, _) in zip(soak.spans, [*soak.spans[1:], (minutes[-1] * 60, 0)],
                                          strict=True):  # fmt: skip
            axis.axvspan(ended / 60, began / 60, color="#eeeeee", linewidth=0)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)

"""The page, figures and plot of runs of the chaos."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_batches import Counts
from chaos_faults import CLIENTS, CUT, Fault
from chaos_probes import PROBES
from harness.measure import machine, markdown
from tally import ANSWERED, BROKEN, LEFT, REFUSED, TEMPORARY, UNANSWERED, WRONG, Ended

Run = dict[str, Any]
_COLORS = {"SIGKILL": "#d1495b", "SIGTERM": "#edae49", "SIGSTOP": "#30638e"}
_OTHER = "#7d5ba6"
_TIME = re.compile(r" after [0-9.]+ s(?=:)")
_NAMES = {ANSWERED: "answered", REFUSED: "refused", BROKEN: "broken"}


@dataclass(frozen=True)
class Happened:
    """A fault. said_s, said: the first line that the server printed after it. recovery: seconds by
    probe. refusals: statuses by probe."""

    fault: Fault
    began: float
    ended: float
    not_done: str
    said_s: float
    said: str
    recovery: dict[str, float]
    refusals: dict[str, list[int]]

    @property
    def recovered_s(self) -> float:
        """Until every probe was answered as usual."""
        return max(self.recovery.values(), default=0.0)


@dataclass
class Chaos:
    """A run. endings: what was wrong when it ended. ended: the load's requests."""

    minutes: float
    seed: int
    direct: bool
    clients: int
    load_averages: tuple[float, ...]
    calm: dict[str, float] = field(default_factory=dict)
    happened: list[Happened] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    num_begun: int = 0
    batches: Counts = field(default_factory=Counts)
    endings: list[str] = field(default_factory=list)
    log: str = ""

    def during(self, happened: Happened) -> list[Ended]:
        """Requests that were open at some time between a fault and the recovery from it."""
        until = happened.began + max(happened.recovered_s, 1.0)
        return [
            one
            for one in self.ended
            if one.began < until and one.began + one.seconds > happened.began
        ]


def problems(run: Chaos) -> list[str]:
    """Everything that should not have been."""
    wrong = [f"{_text(one)}" for one in run.ended if _is_defect(run, one)]
    if run.num_begun != len(run.ended):
        wrong.append(f"{run.num_begun} requests were begun, {len(run.ended)} have ended")
    for one in run.happened:
        for probe, seconds in one.recovery.items():
            if math.isinf(seconds):
                wrong.append(f"{one.fault}: {probe} does not come back")
        strange = {s for statuses in one.refusals.values() for s in statuses} - {*TEMPORARY, 0}
        if strange:
            wrong.append(f"{one.fault}: probes were answered with {sorted(strange)}")
    return wrong + run.batches.wrong + run.endings


def _is_defect(run: Chaos, one: Ended) -> bool:
    if one.outcome == REFUSED and one.status in TEMPORARY:
        return False
    if one.outcome == BROKEN:
        # Who holds the connection was ended, or the connection cut.
        return not any(
            fault.target == "gateway" or fault.what == CUT and fault.target == CLIENTS
            or run.direct and _is_direct(one)
            for fault in (h.fault for h in run.happened if one in run.during(h))
        )  # fmt: skip
    return one.is_defect


def _is_direct(one: Ended) -> bool:
    return one.kind.startswith(("gRPC", "Triton"))


def _text(one: Ended) -> str:
    return f"{one.kind}: {one.outcome} {one.status or ''} after {one.seconds:.1f} s: {one.detail}"


def merge(found: Chaos, out: Path | None) -> list[Run]:
    """The figures of earlier runs, if there are any in ``out``, and of this one."""
    path = out / "chaos.json" if out else None
    before: list[Run] = json.loads(path.read_text()) if path and path.exists() else []
    return [*before, _figures(found)]


def _figures(run: Chaos) -> Run:
    rows = []
    for one in run.happened:
        ends = Counter(_NAMES.get(e.outcome, e.outcome) for e in run.during(one))
        rows.append({
            **one.fault._asdict(), "not_done": one.not_done,
            "at_s": round(one.began - run.happened[0].began, 1),
            "said_s": round(one.said_s, 2), "said": one.said[:200],
            "recovered_s": round(one.recovered_s, 2),
            "probes": {k: round(v, 2) for k, v in one.recovery.items() if v},
            "statuses": sorted({s for x in one.refusals.values() for s in x}), "requests": ends,
        })  # fmt: skip
    batches = run.batches
    return {
        "machine": machine(), "minutes": run.minutes, "seed": run.seed, "direct": run.direct,
        "clients": run.clients, "load_average": [round(x, 1) for x in run.load_averages],
        "calm_s": {k: round(v, 3) for k, v in run.calm.items()}, "begun": run.num_begun,
        "ends": Counter(f"{e.outcome} {e.status}" if e.outcome == REFUSED else e.outcome
                        for e in run.ended),
        "longest_s": round(max((e.seconds for e in run.ended), default=0.0), 1),
        "batches": {"batches": batches.num_batches, "lines": batches.num_lines,
                    "answered": batches.num_answered, "errors": batches.statuses},
        "faults": rows, "problems": problems(run),
    }  # fmt: skip


def write(runs: list[Run], out: Path) -> str:
    """``chaos.json``, ``chaos.svg`` and ``chaos.md``; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "chaos.json").write_text(json.dumps(runs, indent=1) + "\n")
    _plot(runs, out / "chaos.svg")
    page = "\n\n".join(_page(runs)) + "\n"
    (out / "chaos.md").write_text(page)
    return page


def _page(runs: list[Run]) -> list[str]:
    last = runs[-1]
    options = "; ".join(
        f"`--minutes {r['minutes']:g} --seed {r['seed']}{' --direct' if r['direct'] else ''}`"
        for r in runs
    )
    # The same but for its time is said once.
    same = Counter(_TIME.sub("", line) for r in runs for line in r["problems"])
    wrong = [f"- {count} x {line[:300]}" for line, count in same.items()]
    return [
        "# Ten minutes of chaos",
        last["machine"],
        f"`python benchmarks/reliability/chaos.py`, one run for each of {options}. Load averages "
        f"at the start, and over the last 5 and 15 minutes at the end: "
        f"{'; '.join(', '.join(map(str, r['load_average'])) for r in runs)}. Other programs used "
        "the machine at the same time: times say how long recovery can take, not how fast it is.",
        f"{last['clients']} clients ask all models by every interface, long batches run, and "
        f"{len(PROBES)} probes ask each model in each dialect twice a second. One fault follows "
        "the other. *Recovered*: from the fault (a process that is stopped, something that is "
        "full: from its beginning) until all probes were answered as usual; 0: none noticed it.",
        "Everything was as it should be." if not wrong else "Not as it should be:",
        *(["\n".join(wrong)] if wrong else []),
        "## Recovery", "![Seconds to recovery, by process and fault](chaos.svg)", _recovery(runs),
        "## Requests", _requests(runs),
        "## Batches",
        "Every line of every batch was compared with what came back.", _batches(runs),
        "## Each fault", _each(runs),
    ]  # fmt: skip


def _recovery(runs: list[Run]) -> str:
    rows = []
    for (target, what), found in sorted(_grouped(runs).items()):
        said = [f["said_s"] for f in found if f["said_s"]]
        rows.append([
            f"{target}: {what}", str(len(found)),
            f"{statistics.median(said):.1f}" if said else "",
            f"{statistics.median(f['recovered_s'] for f in found):.1f}",
            f"{max(f['recovered_s'] for f in found):.1f}",
            ", ".join(sorted({str(s or "broken") for f in found for s in f["statuses"]})),
        ])  # fmt: skip
    titles = ["", "times", "first log line, s", "recovered, s", "at most", "probes were told"]
    return markdown(titles, rows)


def _grouped(runs: list[Run]) -> dict[tuple[str, str], list[Any]]:
    groups: dict[tuple[str, str], list[Any]] = {}
    for fault in (f for run in runs for f in run["faults"] if not f["not_done"]):
        groups.setdefault((fault["target"], fault["what"]), []).append(fault)
    return groups


def _requests(runs: list[Run]) -> str:
    ends = sorted({end for run in runs for end in run["ends"]} | {UNANSWERED, WRONG, LEFT})
    rows = [["begun", *(f"{run['begun']:,}" for run in runs)]]
    rows += [[end, *(f"{run['ends'].get(end, 0):,}" for run in runs)] for end in ends]
    rows.append(["longest, s", *(f"{run['longest_s']}" for run in runs)])
    return markdown(["", *(f"seed {run['seed']}" for run in runs)], rows)


def _batches(runs: list[Run]) -> str:
    rows = [
        [f"seed {run['seed']}", *(f"{run['batches'][k]:,}" for k in ("batches", "lines",
                                                                     "answered")),
         ", ".join(f"{n} x {status}" for status, n in run["batches"]["errors"].items())]
        for run in runs
    ]  # fmt: skip
    return markdown(["", "batches", "lines", "answered", "answered with an error"], rows)


def _each(runs: list[Run]) -> str:
    rows = []
    for run in runs:
        for f in run["faults"]:
            lasts = f" for {f['seconds']} s" if f["seconds"] else ""
            ends = ", ".join(f"{n} {end}" for end, n in f["requests"].items())
            rows.append([f"{run['seed']}: {f['target']}: {f['what']}{lasts}", f"{f['at_s']:.0f}",
                         f["not_done"] or f"{f['recovered_s']:.1f}", ends])  # fmt: skip
    titles = ["seed: fault", "at, s", "recovered, s", "requests of the load meanwhile"]
    return markdown(titles, rows)


def _plot(runs: list[Run], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # The same figures give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "atoll", "font.size": 9})
    groups = sorted(_grouped(runs).items(), reverse=True)
    figure, axis = pyplot.subplots(figsize=(8, 0.3 * len(groups) + 1))
    for at, ((_, what), found) in enumerate(groups):
        seconds = [min(f["recovered_s"], 200.0) for f in found]
        axis.plot(seconds, [at] * len(seconds), "o", color=_COLORS.get(what, _OTHER), alpha=0.7)
    axis.set_yticks(range(len(groups)), [f"{target}: {what}" for (target, what), _ in groups])
    axis.set_xlabel("seconds from the fault until every model answers as usual")
    axis.set_xlim(left=0)
    axis.grid(axis="x", color="#eeeeee")
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)

"""This tree compared with another commit: kernels, the engine, and the models as served.

``python benchmarks/versions.py main`` checks the commit out into a temporary folder and lets both
versions take turns, each in its own processes and with the cases of its own benchmarks: the kernels
of ``kernels/cpu.py``, SmolLM2's generation in the engine, and both embedded models behind ``atoll
serve``. It prints the median of the ratios of all turns, since other load on the machine slows both
down. ``--only`` selects the cases whose titles contain a word.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from harness.apart import Apart
from harness.measure import machine, versions

ROOT = Path(__file__).resolve().parents[1]
_KINDS = ("kernels", "int8", "int4")


def version(folder: str, kind: str, only: str) -> Callable[..., Any]:
    """The cases of a tree, as defined by its own ``benchmarks``; runs in its own process.

    Kernels and an engine in one process would have more OpenMP workers than there are cores.
    """
    places = ("benchmarks", "benchmarks/kernels", "benchmarks/peers", "kernels", "python_backends")
    sys.path[:0] = [f"{folder}/{place}" for place in places]
    # The tree's own harness, instead of this tree's.
    for name in [name for name in sys.modules if name.partition(".")[0] == "harness"]:
        del sys.modules[name]
    # In older trees, versions.py itself has the cases.
    own = Path(folder) / "benchmarks" / "version_cases.py"
    file = own if own.exists() else own.with_name("versions.py")
    spec = importlib.util.spec_from_file_location("cases_of_the_tree", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    cases: Callable[..., Any] = module.Version(folder, kind, only)
    return cases


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The commit's files, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve() / "other"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(path), commit], check=True)
        try:
            yield path
        finally:
            subprocess.run([*git, "remove", "--force", str(path)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", help="the other version, as git knows it")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", default="", help="a word of the cases' titles")
    arguments = parser.parse_args()
    print(f"{machine()}; {versions(['torch'])}; this tree beside {arguments.commit}\n")
    print("| case | | share of the other's time | spread |\n|-|-|-:|-:|", flush=True)
    with checked_out(arguments.commit) as folder:
        for kind in _KINDS:
            with ExitStack() as stack:
                other, ours = (
                    stack.enter_context(Apart(str(path), version, str(path), kind, arguments.only))
                    for path in (folder, ROOT)
                )
                _race(other, ours, arguments.rounds)
        served_race(folder, arguments.rounds, arguments.only)


def _race(other: Apart[Any], ours: Apart[Any], rounds: int) -> None:
    while (case := ours(None)) is not None:
        if other(None) != case:
            print(f"| {case[0]} | | not in both | |", flush=True)
            continue
        for name in case[1]:
            _print(case[0], name, [(other(name), ours(name)) for _ in range(rounds + 1)][1:])


def served_race(folder: Path, rounds: int, only: str) -> None:
    """Both embedded models behind ``atoll serve``, through the gateway."""
    from served_cases import Served

    kinds = (("embeddings", Served.embed), ("chats, tokens", Served.chat))
    cases = [
        (f"served {title}, {count} at once", work, count)
        for count in (1, 8, 32)
        for title, work in kinds
        if only in f"served {title}, {count} at once"
    ]
    if not cases:
        return
    with Served(folder) as other, Served(ROOT) as ours:
        for title, work, count in cases:
            turns = [(work(other, count), work(ours, count)) for _ in range(rounds + 1)]
            _print(title, "atoll serve", turns[1:])


def _print(title: str, name: str, turns: list[tuple[float, float]]) -> None:
    """turns: units per second of the other version and of this one."""
    ratios = sorted(theirs / own for theirs, own in turns)
    quarter = len(ratios) // 4
    spread = ratios[-1 - quarter] - ratios[quarter]
    row = title, name, f"{statistics.median(ratios):.2f}", f"{spread:.2f}"
    print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

"""The kernels and the engine of this tree beside those of another commit, in turns.

``python benchmarks/versions.py main`` checks the commit out into a temporary folder and lets both
versions take turns, each in a process of its own, through the cases of ``kernels.py`` and SmolLM2's
generation. It prints the median of every turn's ratio: what the machine's other guests take, they
take from both. ``--only`` keeps the cases whose titles hold a word.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from apart import Apart
from measure import Contestant, Work, machine, versions

ROOT = Path(__file__).resolve().parents[1]
STREAMS = (1, 8, 32)
TOKENS = 64


class Version:
    """The cases of one kind and version, in a process of their own; built when they are asked for.

    Kernels and an engine in one process would leave workers of both, more than there are cores.
    """

    def __init__(self, folder: str, kind: str, only: str) -> None:
        sys.path[:0] = [f"{folder}/kernels", f"{folder}/python_backends"]
        import atoll  # first: it says how threads wait
        import atoll_kernels

        for module in (atoll, atoll_kernels):
            assert str(module.__file__).startswith(folder), f"{module.__file__} is not of {folder}"
        self._cases = _KINDS[kind](only)
        self._now: Mapping[str, Contestant] = {}

    def __call__(self, name: str | None) -> Any:
        """None: (title, names of contestants) of the next case, or None after the last.

        A name: how much that contestant of the case does in a second.
        """
        if name is None:
            title, self._now = next(self._cases, ("", {}))
            return (title, list(self._now)) if title else None
        work = self._now[name]()
        assert isinstance(work, Work)
        return work.units / work.seconds


def _kernels(only: str) -> Iterator[tuple[str, Mapping[str, Contestant]]]:
    import torch
    from kernels_rows import attention_cases, row_cases

    from kernels import linear_cases

    peaks = dict.fromkeys(("fp32", "bf16", "int8", "memory"), 1.0)
    with torch.inference_mode():
        for cases in (attention_cases, linear_cases, row_cases):
            for case in cases(peaks):
                if only in case.title:
                    ours = {n: _timed(c) for n, c in case.contestants.items() if "Atoll" in n}
                    yield case.title, ours


def _engines(dtype: str) -> Callable[[str], Iterator[tuple[str, Mapping[str, Contestant]]]]:
    def cases(only: str) -> Iterator[tuple[str, Mapping[str, Contestant]]]:
        titles = {count: f"SmolLM2, {dtype}, {count} at once" for count in STREAMS}
        if any(only in title for title in titles.values()):
            generate = _engine(dtype)
            for count, title in titles.items():
                if only in title:
                    yield title, {"Atoll engine": generate(count)}

    return cases


_KINDS = {"kernels": _kernels, **{dtype: _engines(dtype) for dtype in ("int8", "int4")}}


def _timed(contestant: Contestant) -> Contestant:
    """``kernel_cases.repeated`` says how much it did in the time of the whole call."""
    import time

    def run() -> Work:
        start = time.perf_counter()
        work = contestant()
        return work if isinstance(work, Work) else Work(work, time.perf_counter() - start)

    return run


def _engine(dtype: str) -> Callable[[int], Contestant]:
    """Tokens a second, prompts among them, of so many streams."""
    import time

    from generate_peers import built

    from atoll.weights.files import resolve

    folder = resolve("HuggingFaceTB/SmolLM2-135M-Instruct")
    generate = built(f"Atoll {dtype}, engine", folder, Path(tempfile.gettempdir()))
    chance = random.Random(1)

    def contestant(count: int) -> Contestant:
        def run() -> Work:
            prompts = [[chance.randrange(100, 40000) for _ in range(TOKENS)] for _ in range(count)]
            start = time.perf_counter()
            generate(prompts, TOKENS)
            return Work(count * TOKENS, time.perf_counter() - start)

        return run

    return contestant


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The commit's files, in a folder of their own."""
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
    print("| case | | time, of the other's | spread |\n|-|-|-:|-:|", flush=True)
    with checked_out(arguments.commit) as folder:
        for kind in _KINDS:
            with ExitStack() as stack:
                other, ours = (
                    stack.enter_context(Apart(str(path), Version, str(path), kind, arguments.only))
                    for path in (folder, ROOT)
                )
                _race(other, ours, arguments.rounds)


def _race(other: Apart[Any], ours: Apart[Any], rounds: int) -> None:
    while (case := ours(None)) is not None:
        other(None)
        for name in case[1]:
            turns = [(other(name), ours(name)) for _ in range(rounds + 1)][1:]
            ratios = sorted(theirs / own for theirs, own in turns)
            quarter = len(ratios) // 4
            spread = ratios[-1 - quarter] - ratios[quarter]
            row = case[0], name, f"{statistics.median(ratios):.2f}", f"{spread:.2f}"
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

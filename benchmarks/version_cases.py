"""The cases in which ``versions.py`` compares this tree with another one."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from harness.measure import Contestant, run

# Titles, and the contestants of each case.
Cases = Iterator[tuple[str, Mapping[str, Contestant]]]

STREAMS = (1, 8, 32)
TOKENS = 64


class Version:
    """The cases of one kind, each built when it is needed.

    kind: "kernels", or the dtype of SmolLM2 in the engine. only: a word of the cases' titles.
    """

    def __init__(self, folder: str, kind: str, only: str) -> None:
        import atoll  # first: it sets how long threads spin
        import atoll_kernels

        for module in (atoll, atoll_kernels):
            assert str(module.__file__).startswith(folder), f"{module.__file__} is not of {folder}"
        self._cases = _KINDS[kind](only)
        self._now: Mapping[str, Contestant] = {}

    def __call__(self, name: str | None) -> Any:
        """For None: (title, names of contestants) of the next case, or None after the last.

        For a name: the units per second of that contestant of the case.
        """
        if name is None:
            title, self._now = next(self._cases, ("", {}))
            return (title, list(self._now)) if title else None
        work = run(self._now[name])
        return work.units / work.seconds


def _kernels(only: str) -> Cases:
    import torch
    from cpu import linear_cases
    from row_cases import attention_cases, row_cases

    peaks = dict.fromkeys(("fp32", "bf16", "int8", "memory"), 1.0)
    with torch.inference_mode():
        for cases in (attention_cases, linear_cases, row_cases):
            for case in cases(peaks):
                if only in case.title:
                    yield case.title, {n: c for n, c in case.contestants.items() if "Atoll" in n}


def _engine(dtype: str, only: str) -> Cases:
    """SmolLM2 in the engine with several numbers of streams, prompts included."""
    titles = {count: f"SmolLM2, {dtype}, {count} at once" for count in STREAMS}
    titles = {count: title for count, title in titles.items() if only in title}
    if not titles:
        return
    from generate_peers import built
    from harness.models import GENERATOR_ID

    from atoll.weights.files import resolve

    folder, chance = resolve(GENERATOR_ID), random.Random(1)
    generate = built(f"Atoll {dtype}, engine", folder, Path(tempfile.gettempdir()))

    def generated(count: int) -> float:
        prompts = [[chance.randrange(100, 40000) for _ in range(TOKENS)] for _ in range(count)]
        generate(prompts, TOKENS)
        return count * TOKENS

    for count, title in titles.items():
        yield title, {"Atoll engine": partial(generated, count)}


_KINDS = {"kernels": _kernels, **{dtype: partial(_engine, dtype) for dtype in ("int8", "int4")}}

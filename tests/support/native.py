"""Native kernels of several instruction sets in one process, for tests."""

from __future__ import annotations

import importlib
from functools import cache

import pytest

from atoll_kernels.cpu.native.build import LEVELS as ALL
from atoll_kernels.cpu.native.build import Level, build, usable_levels
from atoll_kernels.cpu.native.library import Library

BEST = usable_levels()[0]
# What every machine runs, the best of this one, and what that leaves to few rows.
LEVELS = tuple(dict.fromkeys((ALL[-1], BEST, *(ALL[1:2] if BEST is ALL[0] else ()))))
MODULES = (
    "attention", "norm", "activation", "rope", "recurrent", "scan", "gates", "linear_native_dense",
)  # fmt: skip


@cache
def native(level: Level) -> Library:
    """Compiles and loads one level."""
    return Library.load(level, build(level))


def native_level(level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the ops of ``atoll_kernels.cpu`` use ``level``."""
    for name in MODULES:
        module = importlib.import_module(f"atoll_kernels.cpu.{name}")
        monkeypatch.setattr(module, "library", lambda: native(level))

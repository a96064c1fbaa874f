"""Native kernels of several instruction sets in one process, for tests."""

from __future__ import annotations

import importlib
from functools import cache

import pytest

from atoll_kernels.cpu.native.build import LEVELS as ALL
from atoll_kernels.cpu.native.build import Level, build, choose_level
from atoll_kernels.cpu.native.library import Library, openmp

# What every machine runs, and the best of this one.
LEVELS = tuple(dict.fromkeys((ALL[-1], choose_level(None))))
MODULES = ("attention", "norm", "activation", "rope", "linear_native")


@cache
def native(level: Level) -> Library:
    """Compiles and loads one level."""
    return Library.load(level, build(level, openmp()))


def native_level(level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the ops of ``atoll_kernels.cpu`` use ``level``."""
    for name in MODULES:
        module = importlib.import_module(f"atoll_kernels.cpu.{name}")
        monkeypatch.setattr(module, "library", lambda: native(level))

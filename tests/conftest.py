"""How the workers of ``make test`` share the tests.

A worker stays in one folder as long as that has tests left, since the tests of a folder share
servers, which take seconds and a gigabyte to start. Folders that take longest come first.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

FIRST = ("server", "clients", "kernels")
# Files whose tests take long and share nothing: each test goes to whichever worker is free.
APART = (
    "kernels/gpu/test_compile.py", "kernels/gpu/test_interpreted.py", "kernels/test_forced.py",
)  # fmt: skip
# Files with few tests that take long, which would otherwise be left for the end, when other workers
# have nothing to do.
LONG = (
    "test_repository", "test_serve_command", "test_ranks", "test_launcher_ends", "test_crashes",
    "test_linked_crashes", "test_stopping", "test_versions", "test_soak", "test_full_shared_memory",
    "test_generation_features", "test_folder_names", "test_faults", "test_benchmark",
)  # fmt: skip


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """Without the search for garbage, which takes a sixth of the time: all that is made stays."""
    gc.disable()
    yield
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return ByFolder(config, log)


def _folder(unit: str) -> str:
    """``models`` of tests/models/test_t5.py."""
    return unit.removeprefix("tests/").partition("/")[0]


class ByFolder(LoadFileScheduling):
    """Units of work are files, or tests of the files APART, given out folder by folder."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self._folders: dict[Any, str] = {}

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return nodeid if file.endswith(APART) else file

    def _assign_work_unit(self, node: Any) -> None:
        own = self._folders.get(node)
        others = [folder for other, folder in self._folders.items() if other is not node]

        def rank(unit: str) -> tuple[bool, bool, int, bool]:
            folder = _folder(unit)
            place = FIRST.index(folder) if folder in FIRST else len(FIRST)
            is_long = "::" in unit or Path(unit).stem in LONG
            return folder != own, folder in others, place, not is_long

        # Among equals, the first in the queue: the file with most tests.
        unit = min(self.workqueue, key=rank)
        self.workqueue.move_to_end(unit, last=False)
        self._folders[node] = _folder(unit)
        super()._assign_work_unit(node)

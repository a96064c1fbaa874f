"""The bar that is drawn while weights are converted, and what is told of downloads."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

# Told (pieces done, pieces in all).
Progress = Callable[[int, int], None]


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Progress | None]:
    """Draws a bar on standard error where that is a terminal; yields what moves it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.console import Console

    with progress.Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance


_TOLD: ContextVar[Progress | None] = ContextVar("downloads", default=None)


@contextlib.contextmanager
def downloads_told(told: Progress) -> Iterator[None]:
    """``with``: downloads that this thread begins tell ``told`` (bytes done, bytes in all), the
    latter as far as it is known; the hub library then draws no bars of its own."""
    token = _TOLD.set(told)
    try:
        yield
    finally:
        _TOLD.reset(token)


def download_bar() -> type[Any] | None:
    """What stands for the hub library's bars (``tqdm_class``); None: its own."""
    told = _TOLD.get()
    return None if told is None else _telling(told)


def _telling(told: Progress) -> type[Any]:
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        """Counts without drawing. The library has further bars, which count files."""

        def __init__(self, *args: Any, unit: str = "it", **options: Any) -> None:
            self._counts_bytes = unit == "B"
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})
            self.total = options.get("total")

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            if self._counts_bytes and self.n:
                told(int(self.n), int(max(self.total or 0, self.n)))
            return None

    return Bar

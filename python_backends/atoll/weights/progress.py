"""The bar that is drawn while weights are converted."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

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

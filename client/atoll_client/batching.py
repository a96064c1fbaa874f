"""Long lists in parts, some of them at once, with a bar in the terminal on request."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
_WIDTH = 30
# How many parts of a long list are on their way at once.
_PARALLEL = 4


def parts_of(items: Sequence[T], limit: int) -> list[Sequence[T]]:
    """Pieces of at most ``limit`` items; none of nothing."""
    return [items[at : at + limit] for at in range(0, len(items), limit)]


class Progress:
    """Counts items; shows nothing."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *reason: Any) -> None:
        return None

    def advance(self, count: int) -> None:
        """So many more are done."""


class _Bar(Progress):
    """One line on stderr."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._began = total, 0, time.monotonic()

    def __exit__(self, *reason: Any) -> None:
        sys.stderr.write("\n")

    def advance(self, count: int) -> None:
        self._done += count
        filled = _WIDTH * self._done // max(self._total, 1)
        rate = self._done / max(time.monotonic() - self._began, 1e-9)
        bar = "=" * filled + " " * (_WIDTH - filled)
        sys.stderr.write(f"\r[{bar}] {self._done}/{self._total}  {rate:.0f}/s ")
        sys.stderr.flush()


def progress_bar(total: int, is_wanted: bool) -> Progress:
    """A bar for ``total`` items, or nothing."""
    return _Bar(total) if is_wanted else Progress()


async def in_parts(
    items: Sequence[Any], size: int, progress: bool, answer: Callable[[Sequence[Any]], Awaitable[T]]
) -> list[T]:
    """The answers to all parts, in order; where one fails, the others are cancelled."""
    if 0 < len(items) <= size and not progress:
        return [await answer(items)]
    limit = asyncio.Semaphore(_PARALLEL)
    bar = progress_bar(len(items), progress)

    async def one(part: Sequence[Any]) -> T:
        async with limit:
            found = await answer(part)
        bar.advance(len(part))
        return found

    work = [asyncio.ensure_future(one(part)) for part in parts_of(items, size)]
    try:
        with bar:
            return list(await asyncio.gather(*work))
    finally:
        for task in work:
            task.cancel()

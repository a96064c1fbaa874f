"""Splits long lists into parts, several of which are sent at once; with a progress bar if asked."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from atoll_client.errors import ValidationError

T = TypeVar("T")
_WIDTH = 30
# Parts of a list that are sent at once.
_PARALLEL = 4
# How the error of a model begins that says which row is wrong. A single query is not a row.
_PLACE = re.compile(r"^(text_input|input_ids|text_pair|image)\[(\d+)\]")


class _Bar:
    """A progress bar on one line of stderr."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._began = total, 0, time.monotonic()

    def advance(self, count: int) -> None:
        """Counts that many more items."""
        self._done += count
        filled = _WIDTH * self._done // max(self._total, 1)
        rate = self._done / max(time.monotonic() - self._began, 1e-9)
        bar = "=" * filled + " " * (_WIDTH - filled)
        sys.stderr.write(f"\r[{bar}] {self._done}/{self._total}  {rate:.0f}/s ")
        sys.stderr.flush()


def several(texts: Sequence[T], name: str = "texts") -> list[T]:
    """The list that an argument of this name is to be.

    Raises:
        ValidationError: it is a single text, whose characters would be taken for texts.
    """
    if isinstance(texts, str):
        raise ValidationError(f"{name} is {texts!r:.80}; expected a list of texts")
    return list(texts)


def in_place(error: ValidationError, place: Callable[[int], int]) -> ValidationError:
    """The error of a part with the index that its text has in the whole list; ``error`` is changed.

    place: of each of the part's rows.
    """
    error.args = (_PLACE.sub(lambda m: f"{m[1]}[{place(int(m[2]))}]", str(error)),)
    return error


async def in_parts(
    items: Sequence[Any], size: int, progress: bool, answer: Callable[[Sequence[Any]], Awaitable[T]]
) -> list[T]:
    """The answers to parts of at most ``size`` items, in order; an error cancels the other parts.

    progress: shows a bar in the terminal.
    """
    if 0 < len(items) <= size and not progress:
        return [await answer(items)]
    limit = asyncio.Semaphore(_PARALLEL)
    bar = _Bar(len(items)) if progress else None

    async def one(at: int) -> T:
        part = items[at : at + size]
        async with limit:
            try:
                found = await answer(part)
            except ValidationError as error:
                raise in_place(error, lambda row: at + row) from None
        if bar is not None:
            bar.advance(len(part))
        return found

    work = [asyncio.ensure_future(one(at)) for at in range(0, len(items), size)]
    try:
        return list(await asyncio.gather(*work))
    finally:
        for task in work:
            task.cancel()
        if bar is not None:
            sys.stderr.write("\n")

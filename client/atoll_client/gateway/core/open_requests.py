"""Requests that are being answered, each by a task that can be cancelled when the gateway stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any


class OpenRequests:
    """``have_been_ended``: the gateway stops, and a cancelled task has to say so to its client."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.have_been_ended = False

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """The current task answers a request until the block ends: ``end`` cancels it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    def end(self) -> None:
        """Cancels every task that answers a request."""
        self.have_been_ended = True
        for task in self._tasks:
            task.cancel()

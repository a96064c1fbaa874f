"""The tasks of open requests, which are cancelled when the gateway stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any


class OpenRequests:
    """``have_been_ended``: the gateway stops, and cancelled tasks have to tell their clients."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.have_been_ended = False

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """``with``: the current task handles a request, and ``end`` cancels it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    def end(self) -> None:
        """Cancels the tasks of all open requests."""
        self.have_been_ended = True
        for task in self._tasks:
            task.cancel()

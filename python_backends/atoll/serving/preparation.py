"""Threads that prepare requests for the engine: they tokenize texts and compile grammars.

This work cannot be interrupted. If a request ends in the meantime (its time is over, its client has
disconnected, the model is unloaded), it is answered at once, and another thread replaces the one
that is still working on it. The number of such abandoned threads is limited.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from atoll.errors import NotReady, Overloaded
from atoll.serving.robust_mutexes import end_without_marks

logger = logging.getLogger(__name__)

# Threads that still work on requests that have ended; each occupies a core.
_MAX_ABANDONED = 4


class Preparable(Protocol):
    """A request to prepare. is_preparing: set once its work has begun."""

    is_preparing: bool

    @property
    def is_done(self) -> bool:
        """True once the request has ended."""

    def fail(self, error: Exception) -> None:
        """Ends the request with an error."""


class _Task(NamedTuple):
    request: Preparable
    work: Callable[[], None]
    is_long: bool
    client: str


class PreparationPool:
    """Runs the work of requests, by turns of clients, of each in its order; any thread may call.

    num_threads: for ordinary work. One more thread runs long work, which then delays no other.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._waiting: deque[_Task] = deque()
        self._wake = threading.Condition()
        self._busy: dict[threading.Thread, _Task | None] = {}
        self._abandoned: set[threading.Thread] = set()
        self._is_closed = False
        # The number of the last turn of each client, while it has something here.
        self._turns: dict[str, int] = {}
        self._numbers = itertools.count(1)

    def submit(
        self, request: Preparable, work: Callable[[], None], *, is_long: bool = False,
        client: str = "",
    ) -> None:  # fmt: skip
        """Queues ``work``, unless the request ends before; its errors end the request.

        Raises:
            Overloaded: too many threads still work on requests that have ended.
            NotReady: the pool is closed.
        """
        with self._wake:
            self.check_open()
            if len(self._abandoned) >= _MAX_ABANDONED:
                raise Overloaded(
                    f"{len(self._abandoned)} grammars or prompts that took too long are still "
                    "being worked on"
                )
            self._waiting.append(_Task(request, work, is_long, client))
            if len(self._busy) <= self._num_threads:
                self._add_thread()
            self._wake.notify_all()

    def check_open(self) -> None:
        """Raises NotReady: the pool is closed."""
        if self._is_closed:
            raise NotReady("the model is shutting down")

    def relieve(self) -> None:
        """Replaces threads whose request has ended; called periodically."""
        with self._wake:
            for thread, task in list(self._busy.items()):
                if task is not None and task.request.is_done:
                    del self._busy[thread]
                    self._abandoned.add(thread)
                    if self._waiting:
                        self._add_thread()

    def close(self) -> None:
        """Ends all requests here with NotReady, and the idle threads.

        Busy threads end after their current work, and are not waited for.
        """
        with self._wake:
            self._is_closed = True
            tasks = [*self._waiting, *self._busy.values()]
            self._waiting.clear()
            self._wake.notify_all()
        for task in tasks:
            if task is not None:
                task.request.fail(NotReady("the model is shutting down"))

    def _add_thread(self) -> None:
        """Under the lock."""
        thread = threading.Thread(target=self._loop, name="atoll-preparation", daemon=True)
        self._busy[thread] = None
        thread.start()

    def _loop(self) -> None:
        end_without_marks()
        thread = threading.current_thread()
        while (task := self._take(thread)) is not None:
            try:
                if not task.request.is_done:
                    task.request.is_preparing = True
                    task.work()
            except Exception as error:
                task.request.fail(error)

    def _take(self, thread: threading.Thread) -> _Task | None:
        """Waits for the next piece of work; None: the thread must end."""
        with self._wake:
            if thread in self._abandoned:
                self._abandoned.discard(thread)
                return None
            self._busy[thread] = None
            while (task := self._next()) is None and not self._is_closed:
                self._wake.wait()
            if task is None:
                del self._busy[thread]
            else:
                self._busy[thread] = task
            return task

    def _next(self) -> _Task | None:
        """Under the lock: the first piece of work of a kind that has a free thread, of the client
        whose turn was the longest time ago."""
        busy = [task.is_long for task in self._busy.values() if task is not None]
        is_free = {True: busy.count(True) < 1, False: busy.count(False) < self._num_threads}
        may = [task for task in self._waiting if is_free[task.is_long]]
        if not may:
            return None
        task = min(may, key=lambda task: self._turns.get(task.client, 0))
        self._waiting.remove(task)
        waiting = {one.client for one in self._waiting} | {task.client}
        self._turns = {name: at for name, at in self._turns.items() if name in waiting}
        self._turns[task.client] = next(self._numbers)
        return task

"""Threads that make requests ready for the engine: long prompts tokenized, grammars compiled.

What they do cannot be interrupted. So a request that ends meanwhile (its time is over, its client
has left, the model is unloaded) is answered by others and its work left alone: another thread takes
the place of the one that is still busy with it. There is a bound on those, too.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from atoll.errors import NotReady, Overloaded

logger = logging.getLogger(__name__)

_NUM_THREADS = 2
# Threads that are busy for nobody; each has a core while it lasts.
_MAX_ABANDONED = 4


class Preparable(Protocol):
    """A request on its way to the engine. is_preparing: set once its work has begun."""

    is_preparing: bool

    @property
    def is_done(self) -> bool:
        """True once it has been answered."""

    def fail(self, error: Exception) -> None:
        """Has it answered with an error."""


Work = Callable[[], None]


class PreparationPool:
    """Runs the work of requests, first come first served; any thread may call."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Preparable, Work]] = deque()
        self._wake = threading.Condition()
        self._busy: dict[threading.Thread, Preparable | None] = {}
        self._abandoned: set[threading.Thread] = set()
        self._is_closed = False

    def submit(self, request: Preparable, work: Work) -> None:
        """Has ``work`` done, unless the request ends before; the request is told of its errors.

        Raises:
            Overloaded: too many threads are busy with requests that have ended.
            NotReady: the pool is closed.
        """
        with self._wake:
            if self._is_closed:
                raise NotReady("the model is shutting down")
            if len(self._abandoned) >= _MAX_ABANDONED:
                raise Overloaded(
                    f"{len(self._abandoned)} grammars or prompts that took too long are still "
                    "being worked on"
                )
            self._waiting.append((request, work))
            if len(self._busy) < _NUM_THREADS:
                self._add_thread()
            self._wake.notify()

    def relieve(self) -> None:
        """Replaces threads whose request has ended; to be called now and then."""
        with self._wake:
            for thread, request in list(self._busy.items()):
                if request is not None and request.is_done:
                    del self._busy[thread]
                    self._abandoned.add(thread)
                    if self._waiting:
                        self._add_thread()

    def close(self) -> None:
        """Ends every request that waits or is being worked on with NotReady, and idle threads.

        Threads that are busy end with what they do; nobody waits for them.
        """
        with self._wake:
            self._is_closed = True
            requests = [request for request, _ in self._waiting]
            requests += [request for request in self._busy.values() if request is not None]
            self._waiting.clear()
            self._wake.notify_all()
        for request in requests:
            request.fail(NotReady("the model is shutting down"))

    def _add_thread(self) -> None:
        """Under the lock."""
        thread = threading.Thread(target=self._loop, name="atoll-preparation", daemon=True)
        self._busy[thread] = None
        thread.start()

    def _loop(self) -> None:
        thread = threading.current_thread()
        while (found := self._take(thread)) is not None:
            request, work = found
            try:
                if not request.is_done:
                    request.is_preparing = True
                    work()
            except Exception as error:
                request.fail(error)

    def _take(self, thread: threading.Thread) -> tuple[Preparable, Work] | None:
        """The next piece of work, once there is one; None: the thread is to end."""
        with self._wake:
            if thread in self._abandoned:
                self._abandoned.discard(thread)
                return None
            self._busy[thread] = None
            while not (self._waiting or self._is_closed):
                self._wake.wait()
            if not self._waiting:
                del self._busy[thread]
                return None
            request, work = self._waiting.popleft()
            self._busy[thread] = request
            return request, work

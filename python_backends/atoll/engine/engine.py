"""The engine's thread: takes requests from any thread and steps the core while there is work.

``submit`` and ``cancel`` never block; answers come through each request's sink, on this thread.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from atoll.engine.core import EngineCore, EngineStats
from atoll.engine.request import Request
from atoll.errors import Cancelled, GenerationError, NotReady, Overloaded
from atoll_kernels.device import enter

logger = logging.getLogger(__name__)

# An idle engine wakes up this often to expire conversations.
_IDLE_S = 1.0


class Engine:
    """A core and its thread.

    on_step: called on the engine's thread after every step, and whenever it runs out of work.
    """

    def __init__(
        self,
        core: EngineCore,
        *,
        max_concurrent_requests: int = 512,
        session_timeout_s: float = 300.0,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self._core, self._on_step = core, on_step
        self._max_concurrent, self._session_timeout_s = max_concurrent_requests, session_timeout_s
        self._wake = threading.Condition()
        self._calls: deque[Callable[[], None]] = deque()
        self._num_arriving = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="atoll-engine", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends every request with NotReady, then the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, request: Request) -> None:
        """Queues a request; its sink hears the rest.

        Raises:
            Overloaded: ``max_concurrent_requests`` are held already.
            NotReady: the engine is stopping.
        """
        with self._wake:
            if self._stopping:
                raise NotReady("the model is shutting down")
            held = self._core.num_held + self._num_arriving
            if held >= self._max_concurrent:
                raise Overloaded(
                    f"{held} requests are held; max_concurrent_requests is {self._max_concurrent}"
                )
            self._num_arriving += 1
            self._calls.append(lambda: self._arrive(request))
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """Ends a request with ``Cancelled`` before the next step, if it has not ended."""
        self._call(lambda: self._core.cancel(request_id, Cancelled("the request was cancelled")))

    def forget_session(self, session_id: str) -> None:
        """Frees what an idle conversation keeps in the cache."""
        self._call(lambda: self._core.scheduler.parking.forget(session_id))

    def stats(self) -> EngineStats:
        """May be called from any thread; the numbers need not be of the same step."""
        return self._core.stats()

    def _call(self, function: Callable[[], None]) -> None:
        """Runs a function on the engine's thread, between steps."""
        with self._wake:
            self._calls.append(function)
            self._wake.notify()

    def _arrive(self, request: Request) -> None:
        with self._wake:
            self._num_arriving -= 1
        self._core.add(request)

    def _loop(self) -> None:
        enter(self._core.device)
        while self._take_calls():
            try:
                if self._core.is_busy:
                    self._core.step()
            except Exception as error:
                # The core recovers from a failed step by itself; this is a failed recovery.
                logger.exception("the engine could not recover; every request ends")
                self._core.cancel_all(GenerationError(f"{type(error).__name__}: {error}"))
            self._on_step()
        self._core.cancel_all(NotReady("the model is shutting down"))
        self._on_step()

    def _take_calls(self) -> bool:
        """Runs what other threads asked for; sleeps while there is nothing to do. False: stop."""
        with self._wake:
            if not (self._core.is_busy or self._calls or self._stopping):
                self._wake.wait(_IDLE_S)
            calls, self._calls = self._calls, deque()
            stopping = self._stopping
        for function in calls:
            function()
        self._core.scheduler.parking.expire(self._session_timeout_s)
        return not stopping

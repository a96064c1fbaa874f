"""Ends requests whose time is over, also those whose turn has not come."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from atoll.errors import Cancelled

logger = logging.getLogger(__name__)

# How often requests are looked over. To wake the thread for each would cost more than its answer.
_INTERVAL_S = 0.05

Fail = Callable[[BaseException], None]


class Deadlines:
    """A thread that ends what is late. ``add`` and ``remove`` cost no more than a dictionary's."""

    def __init__(self) -> None:
        self._open: dict[Fail, tuple[float, float]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="atoll-deadlines", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; what is open stays so."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def add(self, fail: Fail, arrival: float, limit_s: float | None) -> None:
        """``fail`` is called, on the thread, ``limit_s`` after ``arrival`` (``time.monotonic``)."""
        if limit_s is not None:
            self._open[fail] = arrival + limit_s, limit_s

    def remove(self, fail: Fail) -> None:
        """It has been answered."""
        self._open.pop(fail, None)

    def _loop(self) -> None:
        while not self._stopping.wait(_INTERVAL_S):
            now = time.monotonic()
            for fail, (end, limit_s) in self._open.copy().items():
                if now < end:
                    continue
                self.remove(fail)
                try:
                    fail(Cancelled(f"the request's time is over, {limit_s:g} s"))
                except Exception:
                    logger.exception("a late request could not be ended; others go on")

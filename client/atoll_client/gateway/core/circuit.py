"""Which servers are spared after failures, and how many requests may be tried again.

A model of a server that fails ``THRESHOLD`` times in a row gets no requests for a while, if others
have the model; then one request shows whether it works again. Each failure doubles the while.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

THRESHOLD = 5
_FIRST_S, _LONGEST_S = 1.0, 60.0
# Requests that may be tried again at once, before the share of all requests limits them.
_RESERVE = 100.0


class Circuit:
    """One model of one server, after a failure. ``state`` as metrics tell it."""

    CLOSED, HALF_OPEN, OPEN = 0, 1, 2

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._jitter = clock, jitter
        self._num_failures = 0
        self._until: float | None = None

    @property
    def state(self) -> int:
        """Open circuits get no requests, half-open ones a single one."""
        if self._until is None:
            return self.CLOSED
        return self.HALF_OPEN if self._clock() >= self._until else self.OPEN

    @property
    def wait_s(self) -> float:
        """Seconds until it is half-open."""
        return 0.0 if self._until is None else max(0.0, self._until - self._clock())

    def fail(self) -> None:
        """A request has failed. From the threshold on, the circuit is open."""
        self._num_failures += 1
        if self._num_failures >= THRESHOLD:
            self._until = self._clock() + self._pause_s()

    def spare(self, seconds: float) -> None:
        """The server has asked for no requests for a while."""
        self._until = max(self._until or 0.0, self._clock() + seconds)

    def is_probe(self) -> bool:
        """Whether a request may be the one that shows whether all is well again.

        If so, the next may be only when the outcome of this one is due.
        """
        is_due = self.state == self.HALF_OPEN
        if is_due:
            self._until = self._clock() + self._pause_s()
        return is_due

    def _pause_s(self) -> float:
        """Jitter, so that gateways do not come back to a server all at once."""
        doublings = min(max(self._num_failures - THRESHOLD, 0), 10)
        return min(_LONGEST_S, _FIRST_S * 2.0**doublings) * (0.5 + 0.5 * self._jitter())


class RetryBudget:
    """How many requests may be sent to another server: ``share`` of all, after a reserve.

    Without it, servers that are all in trouble would get every request several times.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._left = _RESERVE if share else 0.0

    def earn(self) -> None:
        """A request has come."""
        if self._left < _RESERVE:
            self._left += self._share

    def take(self) -> bool:
        """Whether a request may be tried again, which is then counted."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

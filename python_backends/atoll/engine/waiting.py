"""The sequences that wait, in the order in which they are admitted.

Lower priorities go first. So that none waits forever, a sequence rises by one class for each
``aging_s`` seconds of waiting: it is due at its arrival + priority * aging_s, and what is due
first goes first. Whom to preempt follows from the same times.
"""

from __future__ import annotations

import time
from bisect import insort_left, insort_right
from collections import deque
from collections.abc import Sequence

from atoll.engine.request import RequestState


class WaitingQueue(deque[RequestState]):
    """Sequences by when they are due; of equals, the one that came first. aging_s: above zero."""

    def __init__(self, aging_s: float) -> None:
        super().__init__()
        self._aging_s = aging_s

    def add(self, sequence: RequestState) -> None:
        """Queues a new sequence, and sets when it is due."""
        sequence.due = time.monotonic() + sequence.request.priority * self._aging_s
        insort_right(self, sequence, key=_due)

    def put_back(self, sequence: RequestState) -> None:
        """Queues a preempted sequence again, in front of all that are due no earlier."""
        insort_left(self, sequence, key=_due)


def last_due(running: Sequence[RequestState]) -> RequestState:
    """The sequence to preempt: of those that are due last, the one that was admitted last."""
    return max(reversed(running), key=_due)


def _due(sequence: RequestState) -> float:
    return sequence.due

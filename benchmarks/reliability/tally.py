"""How each request of a load has ended, counted once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

ANSWERED = "answered"
REFUSED = "refused"
LEFT = "left by the client"
BROKEN = "connection broken"
UNANSWERED = "unanswered within its deadline"
WRONG = "wrong answer"
# What a server that is full, starting again or asked for less time than needed may say.
TEMPORARY = (429, 502, 503, 504, 529)
_KEPT = 200


class Ended(NamedTuple):
    """A request. began: by ``time.monotonic``. status: HTTP's, or 0. detail: what was wrong."""

    kind: str
    outcome: str
    began: float
    seconds: float
    status: int = 0
    detail: str = ""
    is_expected: bool = True

    @property
    def is_defect(self) -> bool:
        """Whether it should not have ended so: a broken connection is one, too, unless something
        was killed."""
        if self.outcome == REFUSED:
            return not self.is_expected
        return self.outcome in (UNANSWERED, WRONG, BROKEN)


class Tally:
    """Counts; safe to read from any thread.

    by_end: requests by kind and outcome, with the status of what was refused. defects: the first
    ones in full. http: HTTP requests by path and status, 0 where none was read to the end.
    """

    def __init__(self, on_end: Callable[[Ended], None] | None = None) -> None:
        self.num_begun = 0
        self.by_end: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[str, float] = {}
        self.http: Counter[tuple[str, int]] = Counter()
        self.num_defects = 0
        self.defects: list[Ended] = []
        self._lock, self._on_end = threading.Lock(), on_end

    def begin(self) -> float:
        """Of one request; returns when."""
        with self._lock:
            self.num_begun += 1
        return time.monotonic()

    def ended(
        self, kind: str, outcome: str, began: float, status: int = 0, detail: str = "",
        is_expected: bool = True,
    ) -> None:  # fmt: skip
        """Of the same request."""
        seconds = time.monotonic() - began
        ended = Ended(kind, outcome, began, seconds, status, detail, is_expected)
        outcome = f"{outcome} {status}" if outcome == REFUSED else outcome
        with self._lock:
            self.by_end[kind, outcome] += 1
            self.seconds[kind] = max(self.seconds.get(kind, 0.0), seconds)
            if ended.is_defect:
                self.num_defects += 1
                self.defects = [*self.defects, ended][:_KEPT]
        if self._on_end is not None:
            self._on_end(ended)

    def sent(self, path: str, status: int) -> None:
        """Counts an HTTP request that has ended, or (0) was left."""
        with self._lock:
            self.http[path, status] += 1

    def counts(self) -> tuple[int, Counter[tuple[str, str]]]:
        """Requests begun, and those ended, of one moment."""
        with self._lock:
            return self.num_begun, self.by_end.copy()

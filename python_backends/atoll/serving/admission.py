"""Limits the answers that a model works on, from a request's arrival to its last response.

One client who takes all places would keep the others out: those who have less than an equal share
of the places get in beyond the limit, up to a quarter more.
"""

from __future__ import annotations

import threading
from collections import Counter

from atoll.errors import Overloaded, ValidationError
from atoll.fairness.shares import is_below_share


class Admission:
    """Counts answers: a request with ``n`` counts as n. Any thread may call."""

    def __init__(self, limit: int) -> None:
        self._limit, self._num_held = limit, 0
        self._most = limit + max(limit // 4, 1)
        self._by_client = Counter[str]()
        self._lock = threading.Lock()

    @property
    def num_held(self) -> int:
        """Answers in progress or waiting."""
        return self._num_held

    def enter(self, num_answers: int = 1, client: str = "") -> None:
        """Admits a client's request with all of its answers.

        Raises:
            ValidationError: it has more answers than the limit.
            Overloaded: there are too many at present.
        """
        if num_answers > self._limit:
            raise ValidationError(
                f"the request is for {num_answers} answers; max_concurrent_requests is "
                f"{self._limit}"
            )
        with self._lock:
            if not self._has_room(num_answers, client):
                raise Overloaded(
                    f"{self._num_held} requests are held; max_concurrent_requests is {self._limit}"
                )
            self._num_held += num_answers
            self._by_client[client] += num_answers

    def leave(self, num_answers: int = 1, client: str = "") -> None:
        """Called before an admitted request's last response."""
        with self._lock:
            self._num_held -= num_answers
            self._by_client[client] -= num_answers
            if not self._by_client[client]:
                del self._by_client[client]

    def _has_room(self, num_answers: int, client: str) -> bool:
        total = self._num_held + num_answers
        if total <= self._limit:
            return True
        num_clients = len(self._by_client.keys() | {client})
        own = self._by_client[client] + num_answers
        return total <= self._most and is_below_share(own, num_clients, self._limit)

"""Limits the answers that a model works on, from a request's arrival to its last response."""

from __future__ import annotations

import threading

from atoll.errors import Overloaded, ValidationError


class Admission:
    """Counts answers: a request with ``n`` counts as n. Any thread may call."""

    def __init__(self, limit: int) -> None:
        self._limit, self._num_held = limit, 0
        self._lock = threading.Lock()

    @property
    def num_held(self) -> int:
        """Answers in progress or waiting."""
        return self._num_held

    def enter(self, num_answers: int = 1) -> None:
        """Admits a request with all of its answers.

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
            if self._num_held + num_answers > self._limit:
                raise Overloaded(
                    f"{self._num_held} requests are held; max_concurrent_requests is {self._limit}"
                )
            self._num_held += num_answers

    def leave(self, num_answers: int = 1) -> None:
        """Called before an admitted request's last response."""
        with self._lock:
            self._num_held -= num_answers

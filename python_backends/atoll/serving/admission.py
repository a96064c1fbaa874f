"""How many answers a model works on at once, from a request's arrival to its last response."""

from __future__ import annotations

import threading

from atoll.errors import Overloaded, ValidationError


class Admission:
    """Counts answers: a request for ``n`` of them counts as n. Any thread may call."""

    def __init__(self, limit: int) -> None:
        self._limit, self._num_held = limit, 0
        self._lock = threading.Lock()

    @property
    def num_held(self) -> int:
        """Answers that are being worked on, or wait."""
        return self._num_held

    def enter(self, num_answers: int = 1) -> None:
        """Takes in a request, whole or not at all.

        Raises:
            ValidationError: it asks for more than could ever be held.
            Overloaded: others leave no room for it.
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
        """A request that was taken in has had its last response."""
        with self._lock:
            self._num_held -= num_answers

"""What requests of all tasks have in common, from admission to the last response."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, Protocol

from atoll.serving.requests.report import Origin, Report
from atoll.serving.triton.response_sender import ResponseSender


class Notified(Protocol):
    """The response streamer, as a request uses it."""

    def notify(self, request: Any, is_urgent: bool) -> None: ...

    def wake(self) -> None: ...


class ServedRequest(ABC):
    """A request in progress. Any thread may end it; the response streamer sends its responses.

    origin: set when it is accepted. num_answers: counts against ``max_concurrent_requests``.
    limit_s: the time limit in seconds, or None. is_preparing: the preparation pool has begun to
    work on it. has_answered: a response was sent. is_closed: the last response is being sent, or
    was sent.
    """

    is_stream = False
    origin = Origin()

    def __init__(
        self, sender: ResponseSender, streamer: Notified, *, num_answers: int, limit_s: float | None
    ) -> None:
        self.sender, self.num_answers, self.limit_s = sender, num_answers, limit_s
        # When it arrived, and when it was submitted to the engine.
        self.arrival = self.submitted = time.monotonic()
        self.error: Exception | None = None
        self.is_preparing = self.has_answered = self.is_closed = False
        self.num_tokens_unpolled = 0
        self._streamer = streamer

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """True once everything for the last response is there."""

    @property
    def is_done(self) -> bool:
        """True once it is complete, or has failed."""
        return self.error is not None or self.is_complete

    def report(self) -> Report:
        """What is told of it when it has ended."""
        return Report()

    def asked_text(self) -> Any:
        """What it asks, for logs."""
        return ""

    def fail(self, error: Exception) -> None:
        """Ends it with the error, unless it has ended."""
        self.error = self.error or error
        self._call_attention()

    @abstractmethod
    def advance(self) -> None:
        """Processes what the engine has delivered; on the response streamer's thread."""

    @abstractmethod
    def cancel(self) -> None:
        """Makes the engine stop working on it."""

    def _call_attention(self) -> None:
        self._streamer.notify(self, True)
        self._streamer.wake()

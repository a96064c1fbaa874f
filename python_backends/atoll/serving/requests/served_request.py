"""What requests of all tasks have in common from their admission to their last response."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, Protocol

from atoll.serving.triton.response_sender import ResponseSender


class Notified(Protocol):
    """What the response streamer is to a request."""

    def notify(self, request: Any, is_urgent: bool) -> None: ...

    def wake(self) -> None: ...


class ServedRequest(ABC):
    """A request that was read. Any thread may end it; the response streamer sends.

    num_answers: how many it counts as. limit_s: seconds after which it ends with an error; None:
    never.
    is_preparing: True once the request's own work on a thread of the preparation pool has begun.
    has_answered: a response was sent. is_closed: the last one is sent, or about to be.
    """

    is_stream = False

    def __init__(
        self, sender: ResponseSender, streamer: Notified, *, num_answers: int, limit_s: float | None
    ) -> None:
        self.sender, self.num_answers, self.limit_s = sender, num_answers, limit_s
        # When it came, and when its tokens were given to the engine.
        self.arrival = self.submitted = time.monotonic()
        self.error: Exception | None = None
        self.is_preparing = self.has_answered = self.is_closed = False
        self.num_tokens_unpolled = 0
        self._streamer = streamer

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """True once there is all that its last response needs."""

    @property
    def is_done(self) -> bool:
        """True once it is complete, or has failed."""
        return self.error is not None or self.is_complete

    def fail(self, error: Exception) -> None:
        """Ends it with the error, unless it has ended."""
        self.error = self.error or error
        self._call_attention()

    @abstractmethod
    def advance(self) -> None:
        """Takes in what the engine has delivered; on the response streamer's thread."""

    @abstractmethod
    def cancel(self) -> None:
        """Has the engine stop working on it."""

    def _call_attention(self) -> None:
        self._streamer.notify(self, True)
        self._streamer.wake()

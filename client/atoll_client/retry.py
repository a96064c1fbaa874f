"""When a refused request is sent again: how often, after which pauses, and until when."""

from __future__ import annotations

import asyncio
import time

from atoll_client.errors import AtollError


class Tries:
    """A request's deadline, in seconds from now, and the number of tries after the first."""

    def __init__(self, timeout_s: float, retries: int) -> None:
        self._ends, self._retries = time.monotonic() + timeout_s, retries
        self._num_failed = 0

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; always positive."""
        return max(self._ends - time.monotonic(), 0.001)

    async def pause(self, error: AtollError) -> None:
        """Returns when the refused request may be sent again; raises the error if it may not.

        After a connection reset, the server may already have processed the request.
        """
        pause_s = min(0.2 * 2.0**self._num_failed, 5.0)
        is_spent = self._num_failed >= self._retries or pause_s >= self.left_s
        if is_spent or "reset" in str(error).lower():
            raise error
        self._num_failed += 1
        await asyncio.sleep(pause_s)

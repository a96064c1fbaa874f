"""When a refused request is sent again: how often, after which pause, and until when."""

from __future__ import annotations

import asyncio
import time

from atoll_client.errors import AtollError


class Tries:
    """One request's deadline, in seconds from now, and the tries it has after the first."""

    def __init__(self, timeout_s: float, retries: int) -> None:
        self._ends, self._retries = time.monotonic() + timeout_s, retries
        self._num_failed = 0

    @property
    def left_s(self) -> float:
        """Until the deadline; a little at least."""
        return max(self._ends - time.monotonic(), 0.001)

    async def pause(self, error: AtollError) -> None:
        """Returns when the refused request may be sent again; raises the error where it may not.

        A connection that was reset may have carried the request to its end, so that is final.
        """
        pause_s = min(0.2 * 2.0**self._num_failed, 5.0)
        is_spent = self._num_failed >= self._retries or pause_s >= self.left_s
        if is_spent or "reset" in str(error).lower():
            raise error
        self._num_failed += 1
        await asyncio.sleep(pause_s)

"""Looking up a server's models ends when its caller leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from atoll_client.discovery import Known
from atoll_client.errors import DeadlineExceeded


class Slow:
    """A server that has not answered yet."""

    async def model_names(self, timeout_s: float) -> list[str]:
        await asyncio.sleep(30)
        return []


@pytest.mark.parametrize("num_waiting", [0, 1])
def test_a_caller_that_leaves_at_any_moment_is_gone(num_waiting: int) -> None:
    """Cancelled as it got the lock, a caller went on, and got an answer of a minute."""

    async def leave_after(steps: int) -> None:
        known, slow = Known(), Slow()
        others = [asyncio.create_task(_find(known, slow)) for _ in range(num_waiting)]
        caller = asyncio.create_task(_find(known, slow))
        for step in range(steps):
            if step == 3:
                for other in others:
                    other.cancel()
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller], timeout=1)
        assert caller.cancelled(), steps
        for other in others:
            other.cancel()
        await asyncio.wait([caller, *others], timeout=1)
        # Whoever comes next gets the lock.
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_find(known, slow), 0.01)

    async def leave() -> None:
        for steps in range(12):
            await leave_after(steps)

    asyncio.run(leave())


def test_waiting_for_another_caller_ends_in_time() -> None:
    async def wait() -> None:
        known = Known()
        first = asyncio.create_task(_find(known, Slow()))
        await asyncio.sleep(0.01)
        with pytest.raises(DeadlineExceeded, match="within 0.1 s"):
            await _find(known, Slow(), 0.1)
        first.cancel()

    asyncio.run(wait())


async def _find(known: Known, slow: Any, timeout_s: float = 20.0) -> None:
    async def control(name: str, is_stream: bool, is_batched: bool, question: Any) -> Any:
        raise AssertionError("there are no models")

    await known.find(slow, control, timeout_s)

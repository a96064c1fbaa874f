"""Runs the batches of the folder: some at once, in the order in which they were created."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from starlette.types import ASGIApp

from atoll_client.errors import AtollError
from atoll_client.gateway.batches.calls import Caller
from atoll_client.gateway.batches.run import Run
from atoll_client.gateway.core.context import Context

logger = logging.getLogger(__name__)

# Each has a file open; the others wait in the status `validating`.
_MAX_RUNNING = 8
_LOOK_S, _EXPIRE_S = 5.0, 60.0


class Runner:
    """``start`` and ``stop`` it with the gateway.

    observed: the middleware that counts and logs requests.
    """

    def __init__(self, context: Context, observed: Callable[[ASGIApp, Context], ASGIApp]) -> None:
        self._context, self._store = context, context.batches
        self._caller = Caller(context, observed)
        self._slots = asyncio.Semaphore(context.settings.batch_parallel_lines)
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._deadline: float | None = None
        self._next_expiry = 0.0
        self._reason = ""

    def start(self) -> None:
        """Goes on with what the folder holds."""
        if self._store.is_configured:
            self._task = asyncio.create_task(self._watch())

    def pause(self, grace_s: float) -> None:
        """Begins no more lines; those that run have so many seconds to end."""
        if self._deadline is None:
            self._deadline = time.monotonic() + grace_s
            for run in self._runs.values():
                run.pause(self._deadline)

    async def stop(self) -> None:
        """Returns when no line is at work."""
        self.pause(0.0)
        if self._task is not None:
            # Not cancelled: before Python 3.12, `wait_for` may swallow that.
            self._store.changed.set()
            await asyncio.gather(self._task, *self._tasks, return_exceptions=True)
        self._store.close()

    async def _watch(self) -> None:
        while self._deadline is None:
            self._store.changed.clear()
            try:
                await self._look()
                self._reason = ""
            except AtollError as error:
                if str(error) != self._reason:
                    logger.warning("batches are not run: %s", error)
                self._reason = str(error)
            if self._deadline is not None:
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._store.changed.wait(), _LOOK_S)

    async def _look(self) -> None:
        store = self._store
        if store.is_waiting:
            await store.open()
        if time.monotonic() >= self._next_expiry:
            self._next_expiry = time.monotonic() + _EXPIRE_S
            await store.expire()
        for name, stored in store.batches.items():
            if stored.is_finished or self._deadline is not None:
                continue
            is_ending = stored.batch["status"] == "cancelling"
            if name in self._runs:
                if is_ending:
                    self._runs[name].cancel()
            elif is_ending or len(self._runs) < _MAX_RUNNING:
                run = Run(self._context, self._caller, self._slots, stored)
                self._runs[name] = run
                task = asyncio.create_task(self._run(run))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _run(self, run: Run) -> None:
        name = run.stored.batch["id"]
        try:
            await run.run()
        except Exception as error:
            logger.exception("batch %s", name)
            with contextlib.suppress(AtollError):
                await self._store.fail(run.stored, f"{type(error).__name__}: {error}")
        finally:
            del self._runs[name]
            self._store.changed.set()

"""Models that the launcher has unloaded since nobody asked for them: loaded by the next request."""

from __future__ import annotations

import asyncio
import logging

from atoll_client.errors import AtollError, NotReady
from atoll_client.gateway.core import launcher
from atoll_client.gateway.core.pool import Pool

logger = logging.getLogger(__name__)


class Sleepers:
    """Wakes models. path: of the launcher's socket. wait_s: how long a request waits for one."""

    def __init__(self, pool: Pool, path: str, wait_s: float) -> None:
        self._pool, self._path, self._wait_s = pool, path, wait_s
        self._loads: dict[str, asyncio.Task[None]] = {}

    def begin(self, model: str) -> asyncio.Task[None]:
        """Begins to load a model; requests at once have it loaded once."""
        task = self._loads.get(model)
        if task is None:
            task = self._loads[model] = asyncio.create_task(self._load(model))
            task.add_done_callback(lambda done: self._forget(model, done))
        return task

    async def wake(self, model: str) -> None:
        """Returns once the model is loaded.

        Raises:
            NotReady: it takes longer than ``wait_s``, and goes on, or it cannot be loaded.
        """
        task = self.begin(model)
        done, _ = await asyncio.wait({task}, timeout=self._wait_s)
        if not done:
            raise NotReady(f"model {model!r} is being loaded, which takes long: come again")
        if (error := task.exception()) is not None:
            raise NotReady(f"model {model!r} cannot be loaded: {error}") from error

    async def _load(self, model: str) -> None:
        await launcher.load(self._path, model)
        told = self._pool.told
        told.asleep = {k: v for k, v in told.asleep.items() if v != model}
        await self._pool.refresh()

    def _forget(self, model: str, task: asyncio.Task[None]) -> None:
        del self._loads[model]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, AtollError):
            logger.error("model %s could not be loaded", model, exc_info=error)

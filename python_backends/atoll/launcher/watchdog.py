"""Reloads models whose process crashed: the server neither restarts them nor reports them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from atoll.catalogue import ServedModel
from atoll.errors import NotReady
from atoll.launcher.canary import Probe

logger = logging.getLogger(__name__)

# What the server says of a model that only a reload brings back; the second is said while the
# model is unloaded, after a reload that failed. A GPU's error, other than want of memory, stays
# with its process: whatever is asked next fails with the same.
_CRASHED = (
    "is not healthy", "has no available versions", "is not found", "CUDA error:", "HIP error:",
    "Triton Error [",
)  # fmt: skip


class Watchdog:
    """A thread that sends every model a canary each ``interval_s``.

    A model that answers late is left alone: it may be busy with others' requests.
    """

    def __init__(
        self, probe: Probe, models: Sequence[ServedModel], interval_s: float, load_timeout_s: float
    ) -> None:
        self._probe, self._models = probe, models
        self._interval_s, self._load_timeout_s = interval_s, load_timeout_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self.num_reloads = 0

    def start(self) -> None:
        """Starts the thread; a no-op interval of 0 starts none."""
        if self._interval_s > 0:
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread, at the latest after the request in flight."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            for model in self._models:
                self._check(model)

    def _check(self, model: ServedModel) -> None:
        try:
            self._probe.check(model)
        except NotReady as error:
            if self._stopped.is_set():
                return
            if any(sign in str(error) for sign in _CRASHED):
                logger.error("%s; reloading it", error)
                self._reload(model)
            else:
                logger.warning("canary: %s", error)

    def _reload(self, model: ServedModel) -> None:
        """Unload and load; the server refuses to load while the old process is still going."""
        started = time.monotonic()
        try:
            self._probe.unload(model.name, self._load_timeout_s)
            self._probe.load(model.name, self._load_timeout_s)
        except NotReady as error:
            logger.error("reloading %s failed, trying again later: %s", model.name, error)
            return
        self.num_reloads += 1
        logger.warning("%s is back after %.1f s", model.name, time.monotonic() - started)

"""Reloads models whose process crashed: the server neither restarts them nor reports them.

A process that ended is noticed within a moment, by its number; one that still runs and cannot
answer, by the canary.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from atoll.catalogue import ServedModel
from atoll.errors import NotReady
from atoll.launcher.canary import Probe
from atoll.launcher.stubs import EndAbandoned, Stub, find_stubs

logger = logging.getLogger(__name__)

# What the server says of a model that only a reload brings back; the second is said while the
# model is unloaded, after a reload that failed. A GPU's error, other than want of memory, stays
# with its process: whatever is asked next fails with the same.
_CRASHED = (
    "is not healthy", "has no available versions", "is not found", "CUDA error:", "HIP error:",
    "Triton Error [",
)  # fmt: skip
_LOOK_S = 0.5


class Watchdog:
    """A thread that looks for ended processes, and sends every model a canary each ``interval_s``.

    A model that answers late is left alone: it may be busy with others' requests.

    Args:
        server: the server's process number.
        on_crash: asked before a reload; true if the whole server is started again instead.
    """

    def __init__(
        self,
        probe: Probe,
        models: Sequence[ServedModel],
        server: int,
        interval_s: float,
        load_timeout_s: float,
        on_crash: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self._probe, self._models, self._server = probe, models, server
        self._interval_s, self._load_timeout_s = interval_s, load_timeout_s
        self._on_crash = on_crash
        self._stubs: list[Stub] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self.num_reloads = 0

    def start(self) -> None:
        """Starts the thread; a no-op interval of 0 starts none."""
        if self._interval_s > 0:
            self._stubs = find_stubs(self._server)
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread, at the latest after the request in flight."""
        self._stopped.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        canary_at = time.monotonic() + self._interval_s
        while not self._stopped.wait(min(_LOOK_S, self._interval_s)):
            ended = {stub.model for stub in self._stubs if not stub.is_running()}
            is_time = time.monotonic() >= canary_at
            for model in self._models:
                if is_time or model.name in ended:
                    self._check(model, has_ended=model.name in ended)
            if is_time or ended:
                self._stubs = find_stubs(self._server)
            if is_time:
                canary_at = time.monotonic() + self._interval_s

    def _check(self, model: ServedModel, has_ended: bool) -> None:
        try:
            self._probe.check(model)
            if not has_ended or model.task is not None:
                return
            # Its tensors are not ours, so that nothing but readiness was asked, which says nothing.
            reason = f"model {model.name!r}: its process has ended"
        except NotReady as error:
            reason = str(error)
            if not any(sign in reason for sign in _CRASHED):
                logger.warning("canary: %s", error)
                return
        if self._stopped.is_set():
            return
        if self._on_crash(model.name):
            self._stopped.set()
            return
        logger.error("%s; reloading it", reason)
        self._reload(model)

    def _reload(self, model: ServedModel) -> None:
        """Unload and load; the server refuses to load while the old process is still going."""
        started = time.monotonic()
        try:
            self._probe.unload(model.name, self._load_timeout_s)
            with EndAbandoned(self._server):
                self._probe.load(model.name, self._load_timeout_s)
        except NotReady as error:
            logger.error("reloading %s failed, trying again later: %s", model.name, error)
            return
        self.num_reloads += 1
        logger.warning("%s is back after %.1f s", model.name, time.monotonic() - started)

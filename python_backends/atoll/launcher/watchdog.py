"""Reloads models whose process crashed: the server neither restarts them nor reports them.

A process that ended is noticed within a moment, by its number; one that still runs and cannot
answer, by the canary. The server never answers what an ended process held, nor does whoever waits
for such an answer: so models that ask the one that crashed are loaded again with it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

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
# Triton's words for a process that has ended, or was silent for too long.
_GIVEN_UP = "Stub process"
_LOOK_S = 0.5


class Watchdog:
    """A thread that looks for ended processes, and one for each model that sends it a canary each
    ``interval_s``: a model that does not answer holds up no other.

    A model that answers late is left alone: it may be busy with others' requests.

    Args:
        server: the server's process number.
        on_crash: asked before the reload of a model whose process has ended; true if the whole
            server is started again instead.
        on_lost: told the names of models whose requests, sent before now, get no answer.
    """

    def __init__(
        self,
        probe: Probe,
        models: Sequence[ServedModel],
        server: int,
        interval_s: float,
        load_timeout_s: float,
        on_crash: Callable[[str], bool] = lambda name: False,
        on_lost: Callable[[Sequence[str]], None] = lambda names: None,
    ) -> None:
        self._probe, self._models, self._server = probe, models, server
        self._interval_s, self._load_timeout_s = interval_s, load_timeout_s
        self._on_crash, self._on_lost = on_crash, on_lost
        self._num_at_start: Counter[str] = Counter()  # processes of each model
        self._num_wanted: Counter[str] = Counter()  # of each model that is loaded
        self._stopped = threading.Event()
        self._lock = threading.Lock()  # one reload at a time
        self._reloaded: dict[str, float] = {}  # when, by time.monotonic()
        self._missing: set[str] = set()  # models whose reload has failed
        tasks: dict[str, Callable[[], None]] = {"watchdog": self._run}
        tasks |= {f"canary-{model.name}": partial(self._ask, model) for model in models}
        self._threads = [
            threading.Thread(target=task, name=name, daemon=True) for name, task in tasks.items()
        ]
        self.num_reloads = 0

    def start(self) -> None:
        """Starts the threads; a no-op interval of 0 starts none."""
        if self._interval_s > 0:
            self._num_at_start = self._num_running()
            self._num_wanted = Counter(self._num_at_start)
            for thread in self._threads:
                thread.start()

    def stop(self) -> None:
        """Ends the threads; those with a request in flight end after it."""
        self._stopped.set()
        deadline = time.monotonic() + 5.0
        for thread in self._threads:
            if thread.is_alive() and threading.current_thread() is not thread:
                thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while not self._stopped.wait(min(_LOOK_S, self._interval_s)):
            running = self._num_running()
            for model in self._models:
                if running[model.name] < self._num_wanted[model.name]:
                    self._check_process(model)

    def _check_process(self, model: ServedModel) -> None:
        with self._lock:
            # Once more: others may have taken the place of those that ended, by a reload.
            if self._num_running()[model.name] < self._num_wanted[model.name]:
                self._bring_back(model, f"model {model.name!r}: its process has ended", True)

    def _num_running(self) -> Counter[str]:
        return Counter(stub.model for stub in self._running())

    def _running(self) -> list[Stub]:
        return [stub for stub in find_stubs(self._server) if stub.is_running()]

    def _ask(self, model: ServedModel) -> None:
        while not self._stopped.wait(self._interval_s):
            self._check(model)

    def _check(self, model: ServedModel) -> None:
        asked_at = time.monotonic()
        try:
            self._probe.check(model)
            return
        except NotReady as error:
            reason = str(error)
        if not (model.name in self._missing or any(sign in reason for sign in _CRASHED)):
            # While something is reloaded, what asks it is not ready either.
            if not self._lock.locked():
                logger.warning("canary: %s", reason)
            return
        with self._lock:
            if self._reloaded.get(model.name, -math.inf) < asked_at:
                self._bring_back(model, reason, has_lost=_GIVEN_UP in reason)

    def _bring_back(self, model: ServedModel, reason: str, has_lost: bool) -> None:
        """Under the lock. has_lost: what the process held is never answered."""
        if self._stopped.is_set():
            return
        if has_lost and self._on_crash(model.name):
            self._stopped.set()
            return
        logger.error("%s; reloading it", reason)
        started = time.monotonic()
        names = [model.name]
        if has_lost:
            names += self._give_up([model, *self._waiting_for(model)])
        loaded = self._reload(names)
        if loaded:
            self.num_reloads += 1
            seconds = time.monotonic() - started
            logger.warning("%s back after %.1f s", _are(loaded), seconds)

    def _waiting_for(self, model: ServedModel) -> list[ServedModel]:
        """Models that ask it, or ask one that does."""
        found: list[ServedModel] = []
        names = {model.name}
        while more := [m for m in self._models if m.asked & names and m.name not in names]:
            found += more
            names |= {m.name for m in more}
        return found

    def _give_up(self, models: Sequence[ServedModel]) -> list[str]:
        """Ends their processes, which wait for ever; names of those to be loaded again besides the
        first. An ensemble has no process, and the server loads it with its steps."""
        names = [model.name for model in models]
        for stub in self._running():
            if stub.model in names:
                stub.kill()
        self._on_lost(names)
        return [model.name for model in models[1:] if not model.is_ensemble]

    def _reload(self, names: Sequence[str]) -> list[str]:
        """Unload and load; the server refuses to load while the old process is still going.

        Returns the names of those that are loaded.
        """
        for name in reversed(names):
            self._try(self._probe.unload, name)
        with EndAbandoned(self._server):
            loaded = [name for name in names if self._try(self._probe.load, name)]
        self._missing = (self._missing | set(names)) - set(loaded)
        running = self._num_running()
        for name in names:
            # One that has ended by now is missed, too; one that is still to end counts for nothing.
            most = self._num_at_start[name]
            num = max(min(running[name], most), min(1, most))
            # A load that failed is the canary's business.
            self._num_wanted[name] = num if name in loaded else 0
        self._reloaded |= dict.fromkeys(loaded, time.monotonic())
        return loaded

    def _try(self, change: Callable[[str, float], None], name: str) -> bool:
        try:
            change(name, self._load_timeout_s)
        except NotReady as error:
            logger.error("reloading %s failed, trying again later: %s", name, error)
            return False
        return True


def _are(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"

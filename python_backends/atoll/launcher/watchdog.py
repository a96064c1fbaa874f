"""Reloads models whose process crashed: the server neither restarts nor reports them.

A process that has ended, or that a signal has stopped, is noticed at once, by its pid; one that is
running but cannot answer, by the canary. The server never answers the requests of a process that
has ended, and a model that waits for such an answer never answers either. Models that call the
crashed one are therefore loaded again with it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from atoll.catalogue import ServedModel
from atoll.errors import NotReady
from atoll.launcher.canary import Probe
from atoll.launcher.stubs import EndAbandoned, Stub, find_stubs

logger = logging.getLogger(__name__)

# The server's message for a model that only a reload can repair; the second one appears while the
# model is unloaded, after a failed reload. A GPU error other than lack of memory persists in its
# process: every later request fails with the same error.
_CRASHED = (
    "is not healthy", "has no available versions", "is not found", "CUDA error:", "HIP error:",
    "Triton Error [",
)  # fmt: skip
# Triton's message for a process that has ended, or was silent for too long.
_GIVEN_UP = "Stub process"
_LOOK_S = 0.5
# gRPC's, if nothing listens. A server that ends answers until it has closed its ports.
_REFUSED = "Connection refused"
_DEAF_S = 10.0
# A process that a signal has stopped for so long is ended, and so loaded again.
_STOPPED_S = 5.0


class _Watched:
    """A model that is watched, until ``is_over`` is set."""

    def __init__(self, model: ServedModel) -> None:
        self.model, self.is_over = model, threading.Event()


class Watchdog:
    """One thread looks for processes that have ended, and one per model sends it a canary every
    ``interval_s``, so that a model that does not answer does not delay the others.

    A model that answers late is left alone: it may be busy with other requests. Models come and go
    (``watch``, ``forget``): one that was unloaded deliberately has not died.

    Args:
        server: the server's pid.
        on_crash: called before the reload of a model whose process has ended; returns true if the
            whole server is restarted instead.
        on_lost: called with the names of models whose requests, sent before now, get no answer.
        on_loaded: called with the names of models that have been loaded again.
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
        on_loaded: Callable[[Sequence[str]], None] = lambda names: None,
    ) -> None:
        self._probe, self._server = probe, server
        self._interval_s, self._load_timeout_s = interval_s, load_timeout_s
        self._on_crash, self._on_lost, self._on_loaded = on_crash, on_lost, on_loaded
        self._num_at_start: Counter[str] = Counter()  # processes of each model
        self._num_wanted: Counter[str] = Counter()  # of each model that is loaded
        self._stopped = threading.Event()
        self._lock = threading.Lock()  # one reload at a time
        self._reloaded: dict[str, float] = {}  # when, by time.monotonic()
        self._missing: set[str] = set()  # models whose reload has failed
        self._watched = {model.name: _Watched(model) for model in models}
        self._threads: list[threading.Thread] = []
        self._deaf_since = math.inf  # by time.monotonic()
        self.num_reloads = 0

    @property
    def _models(self) -> list[ServedModel]:
        return [one.model for one in list(self._watched.values())]

    def start(self) -> None:
        """Starts the threads; none if the interval is 0."""
        if self._interval_s > 0:
            self._num_at_start = self._num_running()
            self._num_wanted = Counter(self._num_at_start)
            self._begin("watchdog", self._run)
            for one in self._watched.values():
                self._begin_asking(one)

    def watch(self, model: ServedModel, before: Collection[Stub] = ()) -> None:
        """Watches a model, which has answered, from now on; ``before``: processes that are not its
        own, such as those that finish the requests of the one it has replaced."""
        self.forget(model.name)
        with self._lock:
            one = self._watched[model.name] = _Watched(model)
            own = [s for s in self._running() if s.model == model.name and s not in before]
            self._num_at_start[model.name] = self._num_wanted[model.name] = len(own)
            if self._interval_s > 0:
                self._begin_asking(one)

    def forget(self, name: str) -> None:
        """Watches a model no more, which is going to be unloaded. Waits for reloads."""
        with self._lock:
            one = self._watched.pop(name, None)
            if one is not None:
                one.is_over.set()
            self._missing.discard(name)

    def _begin_asking(self, one: _Watched) -> None:
        self._begin(f"canary-{one.model.name}", partial(self._ask, one))

    def _begin(self, name: str, task: Callable[[], None]) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=task, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Ends the threads; one with a request in flight ends after it."""
        self._stopped.set()
        for one in list(self._watched.values()):
            one.is_over.set()
        deadline = time.monotonic() + 5.0
        for thread in self._threads:
            if thread.is_alive() and threading.current_thread() is not thread:
                thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        stopped: dict[Stub, float] = {}
        while not self._stopped.wait(min(_LOOK_S, self._interval_s)):
            stopped = self._end_stopped(stopped)
            running = self._num_running()
            for model in self._models:
                if running[model.name] < self._num_wanted[model.name]:
                    self._check_process(model)

    def _end_stopped(self, before: Mapping[Stub, float]) -> dict[Stub, float]:
        """Ends what is stopped for too long; returns what is stopped now, and since when. Its
        requests would wait for ever: to Triton, it is a model that is busy."""
        now = time.monotonic()
        found = [s for s in self._running() if s.model in self._watched and s.is_stopped()]
        since = {stub: before.get(stub, now) for stub in found}
        for stub, began in since.items():
            if now - began >= _STOPPED_S:
                logger.error(
                    "model %r: its process %d was stopped by a signal %.0f s ago; ending it",
                    stub.model, stub.pid, now - began,
                )  # fmt: skip
                stub.kill()
        return since

    def _check_process(self, model: ServedModel) -> None:
        with self._lock:
            # Once more: a reload may have replaced those that ended, or the model was unloaded.
            is_watched = model.name in self._watched
            if is_watched and self._num_running()[model.name] < self._num_wanted[model.name]:
                self._bring_back(model, f"model {model.name!r}: its process has ended", True)

    def _num_running(self) -> Counter[str]:
        return Counter(stub.model for stub in self._running())

    def _running(self) -> list[Stub]:
        return [stub for stub in find_stubs(self._server) if stub.is_running()]

    def _ask(self, one: _Watched) -> None:
        while not one.is_over.wait(self._interval_s):
            self._check(one.model)

    def _check(self, model: ServedModel) -> None:
        asked_at = time.monotonic()
        try:
            self._probe.check(model)
            self._deaf_since = math.inf
            return
        except NotReady as error:
            reason = str(error)
        self._end_if_deaf(reason)
        if not (model.name in self._missing or any(sign in reason for sign in _CRASHED)):
            # While a model is reloaded, models that call it are not ready either.
            if not self._lock.locked():
                logger.warning("canary: %s", reason)
            return
        with self._lock:
            if self._reloaded.get(model.name, -math.inf) < asked_at:
                self._bring_back(model, reason, has_lost=_GIVEN_UP in reason)

    def _end_if_deaf(self, reason: str) -> None:
        """Ends a server that has closed its ports and hangs instead of ending: who waits for its
        end starts the next one."""
        if _REFUSED not in reason or self._stopped.is_set():
            return
        now = time.monotonic()
        self._deaf_since = min(self._deaf_since, now)
        if now - self._deaf_since >= _DEAF_S:
            logger.error("the server listens no more, but has not ended; ending it")
            self._stopped.set()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._server, signal.SIGKILL)

    def _bring_back(self, model: ServedModel, reason: str, has_lost: bool) -> None:
        """Call with the lock held. has_lost: the process's requests will never be answered."""
        if self._stopped.is_set() or model.name not in self._watched:
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
            self._on_loaded(loaded)

    def _waiting_for(self, model: ServedModel) -> list[ServedModel]:
        """Models that call it, directly or through another one."""
        found: list[ServedModel] = []
        names = {model.name}
        while more := [m for m in self._models if m.asked & names and m.name not in names]:
            found += more
            names |= {m.name for m in more}
        return found

    def _give_up(self, models: Sequence[ServedModel]) -> list[str]:
        """Ends their processes, which would wait forever; returns the names of the other models
        to be loaded again. An ensemble has no process, and the server loads it with its steps."""
        names = [model.name for model in models]
        for stub in self._running():
            if stub.model in names:
                stub.kill()
        self._on_lost(names)
        return [model.name for model in models[1:] if not model.is_ensemble]

    def _reload(self, names: Sequence[str]) -> list[str]:
        """Unloads and loads; the server refuses to load while the old process is still running.

        Returns the names of the models that were loaded.
        """
        for name in reversed(names):
            self._try(self._probe.unload, name)
        with EndAbandoned(self._server):
            loaded = [name for name in names if self._try(self._probe.load, name)]
        self._missing = (self._missing | set(names)) - set(loaded)
        running = self._num_running()
        for name in names:
            # A process that has ended by now counts as lost, too; one that has yet to end does not.
            most = self._num_at_start[name]
            num = max(min(running[name], most), min(1, most))
            # The canary handles a failed load.
            self._num_wanted[name] = num if name in loaded else 0
        self._reloaded |= dict.fromkeys(loaded, time.monotonic())
        return loaded

    def _try(self, change: Callable[[str, float], None], name: str) -> bool:
        try:
            change(name, self._load_timeout_s)
        except NotReady as error:
            logger.error("reloading %s failed, trying again later: %s", name, error)
            self._end_if_deaf(str(error))
            return False
        return True


def _are(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"

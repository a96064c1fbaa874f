"""How busy models are and since when they are idle, by the metrics page of the server.

Canaries are left out of the models' own counters, so that a model that only they ask is idle.
A model of ours has none of these before its first request.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Collection

from atoll.catalogue import ServedModel

logger = logging.getLogger(__name__)

_LINE = re.compile(r'^(\w+)\{(?:[^}]*,)?model="([^"]+)"[^}]*\} (\S+)$', re.MULTILINE)
_COUNTERS = re.compile(r"atoll_(requests|requests_\w+|\w+_failures)_total")
# Of models that are not ours, to which no canary is sent.
_OTHERS = re.compile(r"nv_inference_request_(success|failure)")
_RUNNING, _WAITING = "atoll_requests_running", "atoll_requests_waiting"
_PENDING = "nv_inference_pending_request_count"
_LOOK_S = 2.0


class Activity:
    """``start``, ``stop``; the rest may be called by any thread.

    metrics_url: of the server; it may not answer now. own: the names of models that are ours.
    """

    def __init__(self, metrics_url: str, own: Callable[[], Collection[str]]) -> None:
        self._url, self._own = metrics_url, own
        self._values: dict[str, dict[str, float]] = {}
        self._counts: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model-activity", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Looks no more."""
        self._stopped.set()

    def touch(self, model: str) -> None:
        """Counts a model as used now: it has just been loaded, or is about to be."""
        self._last[model] = time.monotonic()

    def idle_s(self, model: str) -> float:
        """Seconds since its last request was seen, or since it was first seen."""
        now = time.monotonic()
        return now - self._last.setdefault(model, now)

    def queue(self, model: ServedModel) -> tuple[int, int]:
        """Requests in progress and waiting, as far as the model counts them."""
        found = self._values.get(model.name, {})
        waiting = found.get(_WAITING, 0) + found.get(_PENDING, 0)
        return int(found.get(_RUNNING, 0)), int(waiting)

    def look(self) -> None:
        """Reads the page now."""
        try:
            with urllib.request.urlopen(self._url, timeout=5) as response:
                page = response.read().decode()
        except OSError as error:
            logger.debug("%s does not answer: %s", self._url, error)
            return
        values: dict[str, dict[str, float]] = defaultdict(dict)
        for name, model, value in _LINE.findall(page):
            values[model][name] = values[model].get(name, 0.0) + float(value)
        own = self._own()
        for model, found in values.items():
            counters = [k for k in found if _COUNTERS.fullmatch(k)]
            if model not in own:
                counters = counters or [k for k in found if _OTHERS.fullmatch(k)]
            count = sum(found[k] for k in counters)
            is_busy = any(found.get(k, 0) > 0 for k in (_RUNNING, _WAITING, _PENDING))
            if is_busy or count != self._counts.get(model, count):
                self.touch(model)
            self._counts[model] = count
        self._values = dict(values)

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_S):
            self.look()

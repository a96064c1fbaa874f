"""Our own metrics: Triton's durations end when ``execute()`` returns, ours when the answer is sent.

Updating a metric in the server takes some 40 us, and concurrent updates or a negative increment
crash the whole server. So updates are only collected by the callers, and one thread passes them to
Triton; nothing else in the package calls ``pb_utils.Metric``.
"""

from __future__ import annotations

import ctypes
import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import triton_python_backend_utils as pb_utils

from atoll.serving.robust_mutexes import end_without_marks
from atoll.serving.triton.latency_breakdown import counter

logger = logging.getLogger(__name__)

# Seconds: from a token step (a millisecond) to a long answer.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
COUNTS = tuple(float(2**i) for i in range(0, 18))
# Updates of one metric within this time are combined.
_EVERY_S = 0.02
_CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class _Spec:
    """A metric, which is created when it is first used."""

    name: str
    help_text: str
    kind: str
    buckets: tuple[float, ...] = ()


class Metrics:
    """Counters, gauges and histograms of one model; any thread may call.

    Labels: ``model``. Values that are negative (counters), NaN or infinite are dropped and logged,
    since Triton would abort the server on them.
    """

    def __init__(self, model: str) -> None:
        self._labels = {"model": model}
        self._metrics: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._sums: dict[_Spec, float] = {}
        self._values: dict[_Spec, float] = {}
        self._observed: list[tuple[_Spec, float]] = []
        self._wake, self._is_closed = threading.Event(), False
        self._thread = threading.Thread(target=self._loop, name="atoll-metrics", daemon=True)
        self._thread.start()

    def count(self, name: str, help_text: str, amount: float = 1.0) -> None:
        """Adds ``amount`` >= 0 to a counter."""
        if amount >= 0 and math.isfinite(amount):
            spec = _Spec(name, help_text, "COUNTER")
            with self._lock:
                self._sums[spec] = self._sums.get(spec, 0.0) + amount
            self._wake.set()
        else:
            logger.warning("metric %s: dropped increment %s", name, amount)

    def count_parts(self, parts: Mapping[str, str], moments: Sequence[float]) -> None:
        """Adds a request's time to the parts (see ``latency_breakdown``) between ``moments``."""
        for part, (began, ended) in zip(parts, pairwise(moments), strict=True):
            text = f"seconds of requests {parts[part]}"
            self.count(counter(part), text, max(ended - began, 0.0))

    def set(self, name: str, help_text: str, value: float) -> None:
        """Sets a gauge."""
        if math.isfinite(value):
            with self._lock:
                self._values[_Spec(name, help_text, "GAUGE")] = value
            self._wake.set()

    def observe(
        self, name: str, help_text: str, value: float, buckets: Sequence[float] = SECONDS
    ) -> None:
        """Adds an observation to a histogram."""
        if math.isfinite(value):
            with self._lock:
                self._observed.append((_Spec(name, help_text, "HISTOGRAM", tuple(buckets)), value))
            self._wake.set()

    def close(self) -> None:
        """Ends the thread; the most recent updates are lost.

        Triton gets no more updates from here on, since it has begun to shut down.
        """
        self._is_closed = True
        self._wake.set()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _loop(self) -> None:
        end_without_marks()
        while not self._is_closed:
            self._wake.wait()
            # Sleeps first, so that the request that caused the update is answered before.
            time.sleep(_EVERY_S)
            self._wake.clear()
            if self._is_closed:
                return
            try:
                self._carry_over()
            except Exception:
                logger.exception("metrics could not be updated; serving goes on")

    def _carry_over(self) -> None:
        with self._lock:
            sums, values, observed = self._sums, self._values, self._observed
            self._sums, self._values, self._observed = {}, {}, []
        for spec, amount in sums.items():
            self._metric(spec).increment(amount)
        for spec, value in values.items():
            self._metric(spec).set(value)
        for spec, value in observed:
            self._metric(spec).observe(value)

    def _metric(self, spec: _Spec) -> Any:
        if spec.name not in self._metrics:
            kind = getattr(pb_utils.MetricFamily, spec.kind)
            family = pb_utils.MetricFamily(name=spec.name, description=spec.help_text, kind=kind)
            extra = {"buckets": list(spec.buckets)} if spec.buckets else {}
            self._metrics[spec.name] = family.Metric(labels=self._labels, **extra)
            _keep_for_ever(family)
            _keep_for_ever(self._metrics[spec.name])
        return self._metrics[spec.name]


def _keep_for_ever(thing: Any) -> None:
    """Prevents Python from freeing an object, even at exit.

    To free a metric, the stub sends the server a message; at exit it is too late for that, and the
    stub would crash or hang.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))

"""Our own metrics: Triton's durations end when ``execute()`` returns, ours when the answer is sent.

One lock for every family: two threads that touch custom metrics at once, or a negative increment,
bring the whole server down. Nothing else in the package calls ``pb_utils.Metric``.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

logger = logging.getLogger(__name__)
_LOCK = threading.Lock()

# Seconds: from a token step (a millisecond) to a long answer.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
COUNTS = tuple(float(2**i) for i in range(0, 18))


class Metrics:
    """Counters, gauges and histograms of one model, created when first used.

    Labels: ``model``. Values that are negative (counters), NaN or infinite are dropped and logged,
    since Triton would abort the server on them.
    """

    def __init__(self, model: str) -> None:
        self._labels = {"model": model}
        self._metrics: dict[str, Any] = {}
        self._families: list[Any] = []

    def count(self, name: str, help_text: str, amount: float = 1.0) -> None:
        """Adds ``amount`` >= 0 to a counter."""
        if amount >= 0 and math.isfinite(amount):
            self._update(name, help_text, "COUNTER", "increment", amount)
        else:
            logger.warning("metric %s: dropped increment %s", name, amount)

    def set(self, name: str, help_text: str, value: float) -> None:
        """Sets a gauge."""
        if math.isfinite(value):
            self._update(name, help_text, "GAUGE", "set", value)

    def observe(
        self, name: str, help_text: str, value: float, buckets: Sequence[float] = SECONDS
    ) -> None:
        """Adds an observation to a histogram."""
        if math.isfinite(value):
            self._update(name, help_text, "HISTOGRAM", "observe", value, buckets)

    def _update(
        self,
        name: str,
        help_text: str,
        kind: str,
        method: str,
        value: float,
        buckets: Sequence[float] | None = None,
    ) -> None:
        with _LOCK:
            if name not in self._metrics:
                family = pb_utils.MetricFamily(
                    name=name, description=help_text, kind=getattr(pb_utils.MetricFamily, kind)
                )
                self._families.append(family)
                extra = {} if buckets is None else {"buckets": list(buckets)}
                self._metrics[name] = family.Metric(labels=self._labels, **extra)
            getattr(self._metrics[name], method)(value)

"""What a generator counts is on the metrics page from its first update on, whoever asked first."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import fake_backend  # noqa: F401  (before the modules that import Triton's)
import pytest

from atoll.engine.stats import EngineStats
from atoll.serving.triton.engine_metrics import _COUNTERS
from atoll.serving.triton.generate_metrics import GenerateMetrics


def _stats(**counted: int) -> EngineStats:
    return EngineStats(**{f.name: 1 if f.name == "num_blocks" else 0 for f in fields(EngineStats)}
                       | counted)  # fmt: skip


@pytest.mark.parametrize("is_canary", [True, False])
def test_counters_begin_at_zero(is_canary: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a launcher's canary, a counter was missing until it first grew."""
    page: dict[str, float] = {}
    metrics = GenerateMetrics("model")

    def count(name: str, text: str, amount: float = 1.0) -> None:
        page[name] = page.get(name, 0) + amount

    monkeypatch.setattr(metrics._metrics, "count", count)
    request: Any = SimpleNamespace(sender=SimpleNamespace(is_canary=is_canary))
    metrics.opened(request)
    metrics.update(_stats(num_steps=1))
    with metrics._lock:
        metrics._num_open[is_canary] -= 1
    metrics.update(_stats(num_steps=1))
    metrics.update(_stats(num_steps=3))
    counted = 2 if is_canary else 3
    assert page == {name: 0 for name, _ in _COUNTERS.values()} | {
        "atoll_engine_steps_total": counted
    }

"""What models that have an engine report of it to Triton's /metrics endpoint."""

from __future__ import annotations

import threading

from atoll.engine.stats import EngineStats
from atoll.serving.triton.request_metrics import R, RequestMetrics

# EngineStats field -> gauge and its help text.
_GAUGES = {
    "num_running": ("atoll_requests_running", "requests in the batch"),
    "num_waiting": ("atoll_requests_waiting", "requests that wait for room"),
    "num_blocks": ("atoll_kv_blocks", "blocks of the KV cache"),
    "num_used_blocks": ("atoll_kv_blocks_used", "blocks that requests hold"),
    "num_cached_blocks": ("atoll_kv_blocks_cached", "blocks that hold a shareable prefix"),
    "num_kept_sessions": ("atoll_conversations", "idle conversations that hold blocks"),
}
# Those of a model with recurrent layers.
_STATE_GAUGES = {
    "num_state_slots": ("atoll_state_slots", "slots for recurrent states"),
    "num_used_state_slots": (
        "atoll_state_slots_used", "slots of requests and idle conversations",
    ),
    "num_state_snapshots": ("atoll_state_snapshots", "slots that hold the state of a prefix"),
}  # fmt: skip
_COUNTERS = {
    "num_steps": ("atoll_engine_steps_total", "forward passes"),
    "num_forward_tokens": ("atoll_engine_tokens_total", "tokens computed"),
    "num_preemptions": ("atoll_preemptions_total", "requests put back for want of blocks"),
    "num_evicted_blocks": ("atoll_kv_blocks_evicted_total", "cached blocks that were reused"),
    "num_queried_tokens": (
        "atoll_prefix_queried_tokens_total",
        "prompt tokens looked up in the cache",
    ),
    "num_hit_tokens": ("atoll_prefix_hit_tokens_total", "prompt tokens found in the cache"),
    "num_drafted_tokens": ("atoll_drafted_tokens_total", "tokens guessed by speculation"),
    "num_accepted_tokens": ("atoll_accepted_tokens_total", "guessed tokens that were right"),
    "num_failed_steps": ("atoll_failed_steps_total", "steps that ended in an error"),
}


class EngineMetrics(RequestMetrics[R]):
    """Called on the response streamer's thread, ``opened`` and ``refused`` also on Triton's.

    What is computed only for canaries is not counted.
    """

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._last: EngineStats | None = None
        self._shown: dict[str, float] = {}  # gauges as they were last set
        self._counted: set[str] = set()  # counters that the page has
        self._lock = threading.Lock()
        # Open requests, by whether they are canaries, and whether there were any since the last
        # update.
        self._num_open = {True: 0, False: 0}
        self._was_open = {True: False, False: False}

    def update(self, stats: EngineStats) -> None:
        """Updates the gauges and counters that have changed."""
        last, self._last = self._last, stats
        with self._lock:
            was_open = self._was_open
            self._was_open = {kind: number > 0 for kind, number in self._num_open.items()}
        if was_open[True] and not was_open[False] and not self._is_shown_busy:
            return
        gauges = {**_GAUGES, **_STATE_GAUGES} if stats.num_state_slots else _GAUGES
        for field, (name, text) in gauges.items():
            self._show(name, text, getattr(stats, field))
        share = stats.num_used_blocks / stats.num_blocks
        self._show("atoll_kv_usage", "share of blocks that requests hold", share)
        for field, (name, text) in _COUNTERS.items():
            grown = getattr(stats, field) - (getattr(last, field) if last else 0)
            if grown > 0 or name not in self._counted:  # a counter begins at zero on the page
                self._counted.add(name)
                self._metrics.count(name, text, max(grown, 0))

    @property
    def _is_shown_busy(self) -> bool:
        """A request that has ended may still be in the engine's step, next to a canary."""
        names = (_GAUGES[field][0] for field in ("num_running", "num_waiting"))
        return any(self._shown.get(name) for name in names)

    def _show(self, name: str, text: str, value: float) -> None:
        """Compares with the value that was set last, since updates during canaries are skipped."""
        if self._shown.get(name) != value:
            self._shown[name] = value
            self._metrics.set(name, text, value)

    def opened(self, request: R) -> None:
        """See ``RequestMetrics``."""
        with self._lock:
            self._num_open[request.sender.is_canary] += 1
            self._was_open[request.sender.is_canary] = True

    def closed(self, request: R) -> None:
        """See ``RequestMetrics``."""
        with self._lock:
            self._num_open[request.sender.is_canary] -= 1
        super().closed(request)

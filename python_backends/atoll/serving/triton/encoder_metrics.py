"""What an encoder reports to Triton's /metrics endpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence

from atoll.encoders.packer import Item
from atoll.serving.requests.encoder_request import EncoderRequest
from atoll.serving.triton import latency_breakdown
from atoll.serving.triton.metrics import COUNTS
from atoll.serving.triton.request_metrics import RequestMetrics


class EncoderMetrics(RequestMetrics[EncoderRequest]):
    """``computed`` is called on the engine's thread. What is computed only for canaries is not
    counted."""

    def refused(self, error: BaseException) -> None:
        """See ``RequestMetrics``."""
        kind = getattr(error, "error_type", "inference")
        self._metrics.count(f"atoll_{kind}_failures_total", f"requests failed: {kind}")

    def closed(self, request: EncoderRequest) -> None:
        """See ``RequestMetrics``."""
        if request.sender.is_canary:
            return
        if request.error is not None:
            self.refused(request.error)
        m, now = self._metrics, time.monotonic()
        m.count("atoll_requests_total", "requests answered")
        m.observe("atoll_request_seconds", "from arrival to answer", now - request.arrival)
        if request.error is None:
            m.count_parts(latency_breakdown.ENCODER, [*request.moments, now])

    def computed(
        self, pack: Sequence[Item], num_tokens: int, started: float, seconds: float
    ) -> None:
        """See ``EncoderEngine``'s on_pack."""
        if not any(item.is_counted for item in pack):
            return
        m, waited = self._metrics, started - pack[0].queued
        m.count("atoll_texts_total", "texts encoded", len(pack))
        m.count("atoll_input_tokens_total", "tokens encoded", num_tokens)
        m.observe("atoll_batch_tokens", "tokens in a pack", num_tokens, COUNTS)
        m.observe("atoll_inference_seconds", "a pack's forward", seconds)
        m.observe("atoll_queue_seconds", "oldest text of a pack waited", waited)

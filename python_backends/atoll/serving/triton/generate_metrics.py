"""What a generator reports to Triton's /metrics endpoint."""

from __future__ import annotations

import time

from atoll.serving.requests.generation_request import GenerationRequest
from atoll.serving.triton import latency_breakdown
from atoll.serving.triton.engine_metrics import EngineMetrics
from atoll.serving.triton.metrics import COUNTS


class GenerateMetrics(EngineMetrics[GenerationRequest]):
    """See ``EngineMetrics``."""

    def closed(self, request: GenerationRequest) -> None:
        """See ``RequestMetrics``."""
        if request.sender.is_canary:
            super().closed(request)
            return
        m = self._metrics
        m.count("atoll_prompt_tokens_total", "prompt tokens of requests", request.num_input_tokens)
        for completion in request.completions:
            m.count("atoll_output_tokens_total", "generated tokens", completion.num_output_tokens)
        super().closed(request)
        self._observe(request)

    def _observe(self, request: GenerationRequest) -> None:
        outcome = request.completions[0].outcome if request.completions else None
        if outcome is None:
            return
        m, t = self._metrics, outcome.timing
        m.observe("atoll_request_seconds", "whole request", t.finished - t.arrival)
        m.observe("atoll_input_tokens", "prompt length", outcome.num_prompt_tokens, COUNTS)
        m.observe("atoll_generated_tokens", "answer length", outcome.num_output_tokens, COUNTS)
        if t.scheduled is not None:
            m.observe("atoll_queue_seconds", "wait before the first step", t.scheduled - t.arrival)
        if t.first_token is not None:
            m.observe(
                "atoll_time_to_first_token_seconds", "arrival to first token",
                t.first_token - t.arrival,
            )  # fmt: skip
            if t.scheduled is not None and request.error is None:
                begun = [request.arrival, request.submitted, t.scheduled]
                ended = [t.first_token, t.finished, time.monotonic()]
                m.count_parts(latency_breakdown.GENERATE, begun + ended)
            if outcome.num_output_tokens > 1:
                rest = (t.finished - t.first_token) / (outcome.num_output_tokens - 1)
                m.observe("atoll_time_per_output_token_seconds", "mean after the first", rest)

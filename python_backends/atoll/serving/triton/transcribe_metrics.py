"""What a model that transcribes reports to Triton's /metrics endpoint."""

from __future__ import annotations

import time

from atoll.serving.requests.transcription_request import TranscriptionRequest
from atoll.serving.triton.engine_metrics import EngineMetrics


class TranscribeMetrics(EngineMetrics[TranscriptionRequest]):
    """See ``EngineMetrics``."""

    def closed(self, request: TranscriptionRequest) -> None:
        """See ``RequestMetrics``."""
        m = self._metrics
        if request.sound is not None and not request.sender.is_canary:
            m.count("atoll_audio_seconds_total", "seconds of sound", request.sound.seconds)
            m.count("atoll_output_tokens_total", "generated tokens", request.num_output_tokens)
            m.observe("atoll_request_seconds", "whole request", time.monotonic() - request.arrival)
        super().closed(request)

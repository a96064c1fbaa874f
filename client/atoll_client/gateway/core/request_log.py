"""A log line for each request, as text or JSON, according to ``log_requests``.

It contains neither inputs nor outputs.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TextIO

from atoll_client.gateway.core.logs import line_facts
from atoll_client.gateway.core.web import Request


class RequestLog:
    """Writes to ``stream``. form: text, json, or "" for no log."""

    def __init__(self, form: str, stream: TextIO | None = None) -> None:
        self._form, self._stream = form, stream or sys.stderr

    def finished(self, request: Request, status: int) -> None:
        """Logs a request that has ended; status 499: its client has disconnected."""
        if not self._form:
            return
        usage = request.usage
        facts = {
            **line_facts("info", "atoll.requests", "request", time.time()),
            "id": request.request_id,
            "method": request.method,
            "path": request.path,
            "model": request.labels.get("model") or request.model or "",
            "status": status,
            "error": request.labels.get("error", ""),
            "num_input_tokens": usage.num_input_tokens,
            "num_output_tokens": usage.num_output_tokens,
            "finish_reason": ",".join(usage.finish_reasons),
            "first_token_s": None if usage.first_s is None else round(usage.first_s, 6),
            "seconds": round(time.perf_counter() - request.started, 6),
        }
        # Values are JSON in both formats, so that a path cannot start a new line.
        line = (
            json.dumps(facts)
            if self._form == "json"
            else " ".join(
                f"{k}={json.dumps(v)}" for k, v in facts.items() if v not in ("", 0, None)
            )
        )
        print(line, file=self._stream, flush=True)

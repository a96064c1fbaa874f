"""What a model tells of each request that has ended, if it is asked to: a log line, and spans.

Canaries are left out of both. Any thread may call.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from atoll.errors import Cancelled
from atoll.logs import REQUESTS, LogOptions, configure
from atoll.serving.requests.report import Origin, Report
from atoll.serving.requests.served_request import ServedRequest
from atoll.serving.spans import Spans

# The operation of a task by the names of OpenTelemetry's GenAI conventions, if they have one.
_OPERATIONS = dict.fromkeys(("embed", "sparse", "multi_vector"), "embeddings")

requests = logging.getLogger(REQUESTS)


class Observer:
    """Of one model instance. task: of its requests that have no operation of their own."""

    def __init__(self, options: LogOptions, model: str, version: str, task: str) -> None:
        self._options, self._model, self._version = options, model, version
        self._operation = _OPERATIONS.get(task, task)
        self._spans = None
        if options.otlp_endpoint:
            self._spans = Spans(options.otlp_endpoint, options.otlp_service_name or "atoll")

    @classmethod
    def of(cls, args: Mapping[str, str], parameters: Mapping[str, str], task: str) -> Observer:
        """The observer of what ``initialize`` is given; in a stub, it configures logging, too.

        Raises:
            ConfigError: a setting has a wrong value.
        """
        names = {k: v for k, v in parameters.items() if k in LogOptions.__dataclass_fields__}
        options, model = LogOptions.read(names), args["model_name"]
        version = args.get("model_version", "")
        if "c_python_backend_utils" in sys.modules:
            configure(options, {"process": "model", "model": model, "version": version})
        return cls(options, model, version, task)

    def closed(self, request: ServedRequest) -> None:
        """A request has had its last response."""
        if request.sender.is_canary or not (self._options.log_requests or self._spans):
            return
        self._tell(request.origin, request.report(), request.arrival, request.error, request)

    def ended(
        self, origin: Origin, arrival: float, error: Exception | None, report: Report | None = None
    ) -> None:
        """A request was refused, or is none of ``ServedRequest``."""
        if self._options.log_requests or self._spans:
            self._tell(origin, report or Report(), arrival, error, None)

    def close(self) -> None:
        """Sends the remaining spans, unless the collector is slow or unreachable."""
        if self._spans is not None:
            self._spans.close()

    def _tell(
        self, origin: Origin, report: Report, arrival: float, error: Exception | None,
        request: ServedRequest | None,
    ) -> None:  # fmt: skip
        now, kind = time.monotonic(), error_type(error)
        operation = report.operation or self._operation
        if self._spans is not None:
            attributes = {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "atoll",
                "gen_ai.request.model": self._model,
                "gen_ai.response.model": self._model,
                "gen_ai.usage.input_tokens": report.num_input_tokens,
                "gen_ai.usage.output_tokens": report.num_output_tokens,
                "gen_ai.response.finish_reasons": report.finish_reasons,
                "atoll.model.version": self._version,
                "atoll.request.id": origin.request_id,
                **report.options,
                **({"error.type": kind} if kind else {}),
            }
            name = f"{operation} {self._model}"
            self._spans.record(name, origin.trace, arrival, now, report.parts, attributes)
        if self._options.log_requests:
            facts: dict[str, Any] = {
                "id": origin.request_id,
                "model": self._model,
                "version": self._version,
                "operation": operation,
                "status": _status(error),
                "error": kind,
                "num_input_tokens": report.num_input_tokens,
                "num_output_tokens": report.num_output_tokens,
                "finish_reason": ",".join(report.finish_reasons),
                **{f"{p.name}_s": round(p.ended - p.began, 6) for p in report.parts},
                "seconds": round(now - arrival, 6),
            }
            if self._options.log_prompts and request is not None:
                facts["prompt"] = request.asked_text()
            requests.info("request", extra={"facts": facts})


def error_type(error: Exception | None) -> str:
    """The type of an error as clients are told it; "" for none."""
    return "" if error is None else str(getattr(error, "error_type", "internal"))


def _status(error: Exception | None) -> str:
    if error is None:
        return "ok"
    return "cancelled" if error_type(error) == Cancelled.error_type else "failed"

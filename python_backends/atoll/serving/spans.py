"""A request's spans in a model, sent over OTLP when it has ended; they continue its trace.

Without an endpoint, OpenTelemetry is not imported.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from atoll.errors import ConfigError
from atoll.serving.requests.report import Part

# How long a model that ends waits for the collector.
_CLOSE_S = 3.0


class Spans:
    """Raises ConfigError: OpenTelemetry is not installed. Any thread may call."""

    def __init__(self, endpoint: str, service_name: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError as error:
            hint = "otlp_endpoint is set: pip install 'atoll[otel]'"
            raise ConfigError(hint) from error
        resource = Resource.create({"service.name": service_name})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint, insecure=not endpoint.startswith("https://"))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("atoll.serving")

    def record(
        self, name: str, trace: Mapping[str, str], began: float, ended: float,
        parts: Sequence[Part], attributes: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """The span of a request, and one in it for each part. Times: ``time.monotonic()``.

        trace: the W3C trace context that came with the request; empty: it begins a trace.
        """
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        offset = time.time() - time.monotonic()

        def stamp(moment: float) -> int:
            return int((moment + offset) * 1e9)

        whole = self._tracer.start_span(
            name, extract(dict(trace)), SpanKind.SERVER, attributes, start_time=stamp(began)
        )
        inside = set_span_in_context(whole)
        for part in parts:
            span = self._tracer.start_span(part.name, inside, start_time=stamp(part.began))
            span.end(stamp(max(part.began, part.ended)))
        if "error.type" in attributes:
            whole.set_status(StatusCode.ERROR)
        whole.end(stamp(ended))

    def close(self) -> None:
        """Sends the remaining spans, unless the collector is slow or unreachable."""
        # It blocks, for ten seconds if the collector is unreachable.
        work = threading.Thread(target=self._provider.shutdown, daemon=True)
        work.start()
        work.join(_CLOSE_S)

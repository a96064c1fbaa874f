"""OpenTelemetry spans, one per request, if an endpoint is set. They continue the client's trace.

Without an endpoint, OpenTelemetry is not imported.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from atoll_client.gateway.core.headers import trace_context
from atoll_client.gateway.core.web import Request

# How long a gateway that ends waits for the collector.
_CLOSE_S = 3.0


class Tracer:
    """Makes spans. An empty endpoint turns tracing off."""

    def __init__(self, endpoint: str, service_name: str) -> None:
        self._tracer: Any = None
        self._provider: Any = None
        if endpoint:
            self._start(endpoint, service_name)

    def span(self, request: Request) -> Span:
        """The span of one request, to be used in a ``with`` statement."""
        return Span(self._tracer, request)

    async def close(self) -> None:
        """Sends the remaining spans, unless the collector is slow or unreachable."""
        if self._provider is None:
            return
        # It blocks, for ten seconds if the collector is unreachable.
        work = threading.Thread(target=self._provider.shutdown, daemon=True)
        work.start()
        ends = time.monotonic() + _CLOSE_S
        while work.is_alive() and time.monotonic() < ends:
            await asyncio.sleep(0.02)

    def _start(self, endpoint: str, service_name: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError as error:
            hint = "otlp_endpoint is set: pip install 'atoll-client[otel]'"
            raise ModuleNotFoundError(hint) from error

        resource = Resource.create({"service.name": service_name})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint, insecure=not endpoint.startswith("https://"))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("atoll_client.gateway")


class Span:
    """``with``: the span of one request; nothing if there is no tracer."""

    def __init__(self, tracer: Any, request: Request) -> None:
        self._span: Any = None
        if tracer is None:
            return
        from opentelemetry.propagate import extract, inject
        from opentelemetry.trace import SpanKind, set_span_in_context

        self._span = tracer.start_span(
            f"{request.method} {request.path}",
            context=extract(trace_context(request.headers)),
            kind=SpanKind.SERVER,
        )
        request.trace = {}
        inject(request.trace, context=set_span_in_context(self._span))

    def __enter__(self) -> Span:
        return self

    def __exit__(self, *reason: object) -> None:
        if self._span is not None:
            self._span.end()

    def end(self, request: Request, status: int) -> None:
        """Sets the outcome. A stream that failed has status 200 and an error in its labels."""
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        self._span.set_attributes(_attributes(request, status))
        if status >= 500 or (status < 400 and "error" in request.labels):
            self._span.set_status(StatusCode.ERROR)


def _attributes(request: Request, status: int) -> dict[str, Any]:
    """By OpenTelemetry's conventions of HTTP servers and of GenAI, where they have a name."""
    usage, model = request.usage, request.labels.get("model") or request.model
    found: dict[str, Any] = {
        "http.request.method": request.method,
        "http.response.status_code": status,
        "http.request.id": request.request_id,
        "url.path": request.path,
        "gen_ai.usage.input_tokens": usage.num_input_tokens,
        "gen_ai.usage.output_tokens": usage.num_output_tokens,
        "gen_ai.response.finish_reasons": tuple(usage.finish_reasons),
        **{f"atoll.{name}": value for name, value in request.labels.items()},
    }
    if request.route:
        found["http.route"] = request.route
    if model:
        found |= {"gen_ai.request.model": model, "gen_ai.provider.name": "atoll"}
    if "error" in request.labels:
        found["error.type"] = request.labels["error"]
    return found

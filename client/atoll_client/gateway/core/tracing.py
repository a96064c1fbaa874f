"""OpenTelemetry spans, one per request, if an endpoint is set; ``traceparent`` is taken over.

Without an endpoint nothing of OpenTelemetry is imported and a span costs nothing.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, Protocol

from atoll_client.gateway.core.headers import trace_context
from atoll_client.gateway.core.web import Request

# Until a gateway that ends gives up the spans that a collector has not taken.
_CLOSE_S = 3.0


class Span(Protocol):
    """What the application knows of a span."""

    def __enter__(self) -> Span: ...

    def __exit__(self, *reason: object) -> None: ...

    def end(self, request: Request, status: int) -> None: ...


class Tracer:
    """Makes spans. Args as OTLP names them; an empty endpoint turns everything off."""

    def __init__(self, endpoint: str, service_name: str) -> None:
        self._tracer: Any = None
        self._provider: Any = None
        if endpoint:
            self._start(endpoint, service_name)

    def span(self, request: Request) -> Span:
        """The span of one request, to be used in a ``with`` statement."""
        if self._tracer is None:
            return _NO_SPAN
        return _Span(self._tracer, request)

    async def close(self) -> None:
        """Sends what is left, unless the collector is away or slow."""
        if self._provider is None:
            return
        # Blocks, and tries for ten seconds where nobody listens: not a reason to end late.
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


class _NoSpan:
    def __enter__(self) -> _NoSpan:
        return self

    def __exit__(self, *reason: object) -> None:
        return None

    def end(self, request: Request, status: int) -> None:
        """Nothing to say."""


_NO_SPAN = _NoSpan()


class _Span:
    def __init__(self, tracer: Any, request: Request) -> None:
        from opentelemetry.propagate import extract, inject
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        self._error = StatusCode.ERROR
        self._span = tracer.start_span(
            f"{request.method} {request.path}",
            context=extract(trace_context(request.headers)),
            kind=SpanKind.SERVER,
        )
        request.trace = {}
        inject(request.trace, context=set_span_in_context(self._span))

    def __enter__(self) -> _Span:
        return self

    def __exit__(self, *reason: object) -> None:
        self._span.end()

    def end(self, request: Request, status: int) -> None:
        """Says how it went; a stream that failed was begun with status 200."""
        self._span.set_attribute("http.response.status_code", status)
        self._span.set_attribute("http.request.id", request.request_id)
        for name, value in request.labels.items():
            self._span.set_attribute(f"atoll.{name}", value)
        if status >= 500 or (status < 400 and "error" in request.labels):
            self._span.set_status(self._error)

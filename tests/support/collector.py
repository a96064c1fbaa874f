"""A collector of OpenTelemetry spans: a gRPC server with OTLP's one method."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp

_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


class Collector:
    """Takes spans; ``resources`` are the services that they came from."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: set[str] = set()

    def __enter__(self) -> Collector:
        self._server = grpc.server(ThreadPoolExecutor(2))
        export = grpc.unary_unary_rpc_method_handler(
            self._export,
            request_deserializer=otlp.ExportTraceServiceRequest.FromString,
            response_serializer=otlp.ExportTraceServiceResponse.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler(_SERVICE, {"Export": export})
        self._server.add_generic_rpc_handlers((handler,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._server.stop(0)

    async def __aenter__(self) -> Collector:
        return self.__enter__()

    async def __aexit__(self, *reason: object) -> None:
        self.__exit__(*reason)

    def of(self, trace: str, are_complete: Callable[[list[Any]], bool]) -> list[Any]:
        """The spans of a trace, once they are complete."""
        deadline = time.monotonic() + 60
        while True:
            found = [span for span in list(self.spans) if span.trace_id.hex() == trace]
            if are_complete(found):
                return found
            assert time.monotonic() < deadline, [span.name for span in found]
            time.sleep(0.05)

    def _export(self, message: Any, context: Any) -> Any:
        for part in message.resource_spans:
            names = {a.key: a.value.string_value for a in part.resource.attributes}
            self.resources.add(names["service.name"])
            self.spans += [span for scope in part.scope_spans for span in scope.spans]
        return otlp.ExportTraceServiceResponse()


def attributes(span: Any) -> dict[str, Any]:
    """The attributes of a span; arrays of text as lists."""
    return {a.key: _value(a.value) for a in span.attributes}


def _value(value: Any) -> Any:
    found = getattr(value, value.WhichOneof("value"))
    return [_value(one) for one in found.values] if hasattr(found, "values") else found

"""OpenTelemetry: the gateway's spans arrive at a collector, as children of the caller's.

The Triton server is a scripted one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import fake_triton
import grpc.aio
import pytest
from collector import Collector, attributes
from fake_triton import FakeTriton, Refusal
from gateways import free_port
from scripted import gateway

from atoll_client.gateway.tei import grpc_schema

MODELS = {"vectors": {"task": "embed"}, "words": {"task": "generate"}}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1", "x-request-id": "mine"}
CHAT = {"messages": [{"role": "user", "content": "a"}], "stream": True}
STREAM = {"prompt": "a", "stream": True}


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_spans_are_children_of_the_caller_s(scheme: str) -> None:
    """For embeddings, a streamed chat, a refusal and a failed stream; the server sees them, too."""

    async def broken(message: Any) -> AsyncIterator[Any]:
        for text in ("one", " two", " three"):
            yield fake_triton.chunk(text)
        raise Refusal(grpc.StatusCode.INTERNAL, "the step failed")

    async def scenario() -> None:
        async with FakeTriton(MODELS) as triton, Collector() as collector:
            settings = {"otlp_endpoint": scheme + collector.address, "otlp_service_name": "mine"}
            async with gateway(triton.address, **settings) as http:
                await http.post("/v1/embeddings", json={"input": "a"}, headers=HEADERS)
                answer = await http.post("/v1/chat/completions", json=CHAT, headers=HEADERS)
                assert answer.text.endswith("data: [DONE]\n\n")
                await http.post("/embed", json={"inputs": ""}, headers=HEADERS)
                triton.generate = broken
                await http.post("/v1/completions", json=STREAM, headers=HEADERS)
                await http.post("/embed", json={"inputs": "a"})
            assert collector.resources == {"mine"}
            *children, root = collector.spans
            statuses = {
                span.name: attributes(span)["http.response.status_code"] for span in children
            }
            assert statuses == {
                "POST /v1/embeddings": 200, "POST /v1/chat/completions": 200,
                "POST /embed": 400, "POST /v1/completions": 200,
            }  # fmt: skip
            for span in children:
                assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
                assert span.kind == span.SPAN_KIND_SERVER
                assert attributes(span)["http.request.id"] == "mine"
                assert span.end_time_unix_nano > span.start_time_unix_nano
            assert attributes(children[0])["atoll.model"] == "vectors"
            assert attributes(children[1])["atoll.model"] == "words"
            assert attributes(children[3])["atoll.error"] == "generation"
            errors = [span.status.code == span.status.STATUS_CODE_ERROR for span in children]
            assert errors == [False, False, False, True]
            # Begun here: no parent, a trace of its own.
            assert not root.parent_span_id and root.trace_id.hex() != TRACE
            # What reached the server belongs to the gateway's span.
            ids = [span.span_id.hex() for span in (children[0], children[1], children[3])]
            sent = [metadata["traceparent"] for metadata in triton.metadata[:3]]
            assert sent == [f"00-{TRACE}-{one}-01" for one in ids]
            assert triton.metadata[0]["tracestate"] == "a=1"

    asyncio.run(scenario())


def test_a_stream_s_span_lasts_as_long_as_the_stream() -> None:
    async def slow(message: Any) -> AsyncIterator[Any]:
        yield fake_triton.chunk("one")
        await asyncio.sleep(0.2)
        yield fake_triton.chunk(" two", "stop")

    async def scenario() -> None:
        async with FakeTriton(MODELS) as triton, Collector() as collector:
            triton.generate = slow
            async with gateway(triton.address, otlp_endpoint=collector.address) as http:
                await http.post("/v1/chat/completions", json=CHAT, headers=HEADERS)
            (span,) = collector.spans
            assert span.end_time_unix_nano - span.start_time_unix_nano >= 0.2e9

    asyncio.run(scenario())


def test_streams_over_grpc_are_passed_on_as_their_span() -> None:
    """Each message of a stream was sent to the server as the caller's own child."""
    tei = grpc_schema.tei()

    async def scenario() -> None:
        port = free_port()
        async with FakeTriton(MODELS) as triton, Collector() as collector:
            async with gateway(triton.address, otlp_endpoint=collector.address, grpc_port=port):
                channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
                call = channel.stream_stream(
                    "/tei.v1.Embed/EmbedStream",
                    request_serializer=tei["EmbedRequest"].SerializeToString,
                    response_deserializer=tei["EmbedResponse"].FromString,
                )
                messages = [tei["EmbedRequest"](inputs=text) for text in ("a", "b")]
                metadata = [(name, value) for name, value in HEADERS.items()]
                assert len([row async for row in call(iter(messages), metadata=metadata)]) == 2
                await channel.close()
            (span,) = collector.spans
            assert span.name == "POST /tei.v1.Embed/EmbedStream"
            assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
            sent = {metadata["traceparent"] for metadata in triton.metadata}
            assert sent == {f"00-{TRACE}-{span.span_id.hex()}-01"}

    asyncio.run(scenario())


def test_a_collector_that_is_away_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waited for it would wait for as long as the test may take."""
    monkeypatch.setattr("atoll_client.gateway.core.tracing._CLOSE_S", 0.1)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3600")

    async def scenario() -> None:
        async with FakeTriton(MODELS) as triton:
            endpoint = f"http://127.0.0.1:{free_port()}"
            async with gateway(triton.address, otlp_endpoint=endpoint) as http:
                answer = await http.post("/v1/embeddings", json={"input": "a"}, headers=HEADERS)
                assert len(json.loads(answer.content)["data"]) == 1

    asyncio.run(scenario())

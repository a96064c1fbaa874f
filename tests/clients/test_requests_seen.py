"""What operators see of requests to a real server: one trace through gateway and model, and a line
in the model's log, by the client's own id; and of canaries nothing."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

import grpc
import httpx
import pytest
from collector import Collector, attributes
from gateways import EMBEDDER, GENERATOR, Served
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

from atoll.catalogue import ServedModel
from atoll.launcher.canary import Probe

PARENT = "b7ad6b7169203331"
CHAT = {
    "model": GENERATOR, "max_tokens": 3, "stream": True, "temperature": 0.5, "seed": 1,
    "messages": [{"role": "user", "content": "Name a secret reef."}],
}  # fmt: skip
# Route, body, span of the model, its parts, its attributes.
CASES: list[tuple[str, dict[str, Any], str, tuple[str, ...], dict[str, Any]]] = [
    (
        "/v1/chat/completions", CHAT, f"chat {GENERATOR}",
        ("tokenize", "queue", "prefill", "decode", "send"),
        {
            "gen_ai.operation.name": "chat", "gen_ai.request.max_tokens": 3,
            "gen_ai.request.temperature": 0.5, "gen_ai.usage.output_tokens": 3,
            "gen_ai.response.finish_reasons": ["length"],
        },
    ),
    (
        "/v1/embeddings", {"model": EMBEDDER, "input": "a secret reef"}, f"embeddings {EMBEDDER}",
        ("tokenize", "queue", "compute", "send"),
        {"gen_ai.operation.name": "embeddings", "gen_ai.usage.input_tokens": 5},
    ),
]  # fmt: skip
IDS = [case[0] for case in CASES]


def lines(served: Served) -> list[dict[str, Any]]:
    """The server's log: every line is an object."""
    return [json.loads(line) for line in served.server.log_path.read_text().splitlines()]


def request_line(served: Served, request_id: str) -> dict[str, Any]:
    """The line of a request, which comes after its answer."""
    deadline = time.monotonic() + 60
    while True:
        found = [one for one in lines(served) if one.get("id") == request_id]
        if found or time.monotonic() > deadline:
            (line,) = found
            return line
        time.sleep(0.05)


@pytest.mark.parametrize(("path", "body", "name", "parts", "wanted"), CASES, ids=IDS)
def test_one_trace_through_gateway_and_model(
    path: str, body: Any, name: str, parts: tuple[str, ...], wanted: dict[str, Any],
    served: Served, collector: Collector,
) -> None:  # fmt: skip
    trace = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace}-{PARENT}-01", "x-request-id": f"id-{trace}"}
    assert httpx.post(f"{served.url}{path}", json=body, headers=headers, timeout=60).is_success
    names = {f"POST {path}", name, *parts}
    spans = {s.name: s for s in collector.of(trace, lambda found: len(found) == len(names))}
    assert set(spans) == names
    gateway, model = spans[f"POST {path}"], spans[name]
    assert gateway.parent_span_id.hex() == PARENT
    assert model.parent_span_id == gateway.span_id
    assert {spans[part].parent_span_id for part in parts} == {model.span_id}
    # One after the other, and nothing between them; the clocks of both processes are the machine's.
    moments = [model.start_time_unix_nano]
    for part in parts:
        assert abs(spans[part].start_time_unix_nano - moments[-1]) < 1000
        moments.append(spans[part].end_time_unix_nano)
    assert moments == sorted(moments)
    assert collector.resources >= {"atoll", "atoll-gateway"}
    assert wanted.items() <= attributes(model).items()
    shared = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.request.model")
    assert all(attributes(gateway)[key] == attributes(model)[key] for key in shared)
    assert attributes(model)["atoll.request.id"] == f"id-{trace}"
    assert not any("reef" in str(attributes(span)) for span in spans.values())


@pytest.mark.parametrize(("path", "body", "name", "parts", "wanted"), CASES, ids=IDS)
def test_a_request_is_one_line_of_the_model_s_log(
    path: str, body: Any, name: str, parts: tuple[str, ...], wanted: dict[str, Any], served: Served
) -> None:
    request_id = secrets.token_hex(8)
    headers = {"x-request-id": request_id}
    answer = httpx.post(f"{served.url}{path}", json=body, headers=headers, timeout=60)
    assert answer.headers["x-request-id"] == request_id
    line = request_line(served, request_id)
    assert line["process"] == "model" and f"{line['operation']} {line['model']}" == name
    assert (line["status"], line["error"], line["version"]) == ("ok", "", "1")
    assert line["num_input_tokens"] > 0
    assert line["num_output_tokens"] == wanted.get("gen_ai.usage.output_tokens", 0)
    taken = [line[f"{part}_s"] for part in parts]
    assert all(seconds >= 0 for seconds in taken) and sum(taken) <= line["seconds"] + 1e-3
    assert "reef" not in json.dumps(line)


def test_a_refused_request_is_seen_with_its_reason(served: Served, collector: Collector) -> None:
    """Sent to Triton itself, whose clients write headers as they like."""
    trace = secrets.token_hex(16)
    text = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": [""]}
    answer = httpx.post(
        f"{served.server.http_url}/v2/models/{EMBEDDER}/infer", json={"inputs": [text]},
        headers={"Traceparent": f"00-{trace}-{PARENT}-01", "X-Request-Id": trace}, timeout=60,
    )  # fmt: skip
    assert answer.status_code == 400
    line = request_line(served, trace)
    assert (line["status"], line["error"]) == ("failed", "empty")
    (span,) = collector.of(trace, bool)
    assert span.parent_span_id.hex() == PARENT and attributes(span)["error.type"] == "empty"
    assert span.status.code == span.status.STATUS_CODE_ERROR


def test_a_header_that_is_no_text_is_refused_or_left_out(served: Served) -> None:
    """The model failed, and with it whatever else Triton had handed over."""
    text = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}
    url = f"{served.server.http_url}/v2/models/{EMBEDDER}/infer"
    headers = [(b"traceparent", b"\xff\xfe"), (b"content-type", b"application/json")]
    answer = httpx.post(url, content=json.dumps({"inputs": [text]}), headers=headers, timeout=60)
    assert answer.status_code == 400 and "is not UTF-8" in answer.text
    request = pb.ModelInferRequest(model_name=EMBEDDER)
    tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    tensor.contents.bytes_contents.append(b"a")
    with grpc.insecure_channel(served.server.grpc_url) as channel:
        ask = rpc.GRPCInferenceServiceStub(channel).ModelInfer
        assert ask(request, metadata=[("traceparent-bin", b"\xff\0")], timeout=60).outputs


def test_canaries_are_not_seen(served: Served, collector: Collector) -> None:
    """What was sent before them and after them is, and ends the wait: each model sends its spans in
    order."""

    def ask_all() -> set[str]:
        traces = set()
        for path, body, _, parts, _ in CASES:
            traces.add(trace := secrets.token_hex(16))
            headers = {"traceparent": f"00-{trace}-{PARENT}-01", "x-request-id": trace}
            httpx.post(f"{served.url}{path}", json=body, headers=headers, timeout=60)
            request_line(served, trace)
            collector.of(trace, lambda found, parts=parts: len(found) == 2 + len(parts))
        return traces

    ask_all()
    num_spans, num_lines = len(collector.spans), len(lines(served))
    with Probe(served.server.grpc_url, ("", "")) as probe:
        for model in served.server.models:
            probe.check(ServedModel(model.name, model.task))
    traces = ask_all()
    assert {one["id"] for one in lines(served)[num_lines:]} == traces
    spans = [span for span in collector.spans[num_spans:] if "gen_ai.operation.name" in str(span)]
    assert {span.trace_id.hex() for span in spans} == traces


def test_triton_s_own_lines_are_objects_too(served: Served) -> None:
    found = [one for one in lines(served) if one["logger"] == "triton"]
    loaded = next(one for one in found if "successfully loaded" in one["message"])
    assert loaded["level"] == "info" and loaded["place"].startswith("model_lifecycle")
    assert {one["level"] for one in found} >= {"info", "error"}

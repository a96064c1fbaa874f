"""The requests by which the launcher sees whether models answer are not in the models' metrics."""

from __future__ import annotations

import json
import queue
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from measured import settled, wait_for

from atoll.catalogue import ServedModel
from atoll.launcher import ServerProcess
from atoll.launcher.canary import Probe

TEXT = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["a text"]}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "all-minilm-l6-v2": ("infer", {"inputs": [TEXT]}),
    "smollm2-135m-instruct": ("generate", {"text_input": "a text", "max_tokens": 2}),
}


@pytest.mark.parametrize("model", REQUESTS)
def test_the_metrics_of_an_idle_server_stand_still(
    model: str, embedded_server: ServerProcess
) -> None:
    """They grew by a request every 15 seconds."""
    path, body = REQUESTS[model]
    httpx.post(f"{embedded_server.http_url}/v2/models/{model}/{path}", json=body, timeout=60)
    task = {m.name: m.task for m in embedded_server.models}[model]
    with Probe(embedded_server.grpc_url, ("", "")) as probe:
        served = ServedModel(model, task)
        before = settled(embedded_server, model)
        for _ in range(3):
            probe.check(served)
        assert before and settled(embedded_server, model) == before


def test_a_request_that_ends_beside_a_canary_is_not_shown_for_ever(
    embedded_server: ServerProcess,
) -> None:
    """One that was cancelled within a long step stayed in the gauges, with its blocks, until the
    next request: the engine let go of it while only a canary was open."""
    model = "smollm2-135m-instruct"
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(embedded_server.grpc_url) as client:
        client.start_stream(lambda result, error: answers.put(error or result))
        client.async_stream_infer(model, [_text("reef " * 3500)], request_id="long")
        wait_for(embedded_server, model, "atoll_requests_running", lambda value: value == 1)
        question = json.dumps({"op": "cancel", "request_id": "long"})
        client.async_stream_infer(model, [_text("")], parameters={"control": question})
        assert {_said(answers.get(timeout=60)) for _ in range(2)} == {"cancelled", "true"}
        with Probe(embedded_server.grpc_url, ("", "")) as probe:
            probe.check(ServedModel(model, "generate"), timeout_s=60.0)
        client.stop_stream()
    for gauge in ("atoll_requests_running", "atoll_kv_blocks_used", "atoll_kv_usage"):
        wait_for(embedded_server, model, gauge, lambda value: value == 0)


def _text(text: str) -> Any:
    tensor = triton.InferInput("text_input", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], dtype=object))
    return tensor


def _said(answer: Any) -> str:
    if isinstance(answer, Exception):
        return "cancelled" if "was cancelled" in str(answer) else str(answer)
    return str(answer.as_numpy("control")[0].decode())

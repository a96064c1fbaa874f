"""``timeout`` of a request to an entry of every kind, as KServe's clients give it."""

from __future__ import annotations

import queue
import re
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from gateways import EMBEDDER, GENERATOR
from tritonclient.utils import InferenceServerException

from atoll.launcher import ServerProcess

LONG = 60_000_000
MANY = ["word " * 250] * 32


def _text(texts: list[str], name: str = "text_input", *last: int) -> triton.InferInput:
    found = triton.InferInput(name, [len(texts), *last], "BYTES")
    found.set_data_from_numpy(np.array(texts, dtype=object).reshape(-1, *last))
    return found


def test_an_embedder_keeps_to_it(complete: ServerProcess) -> None:
    """It was ignored over gRPC."""
    with triton.InferenceServerClient(complete.grpc_url) as client:
        with pytest.raises(InferenceServerException, match="time is over, 0.001 s") as caught:
            client.infer(EMBEDDER, [_text(MANY, "text_input", 1)], timeout=1_000)
        assert caught.value.status() == "StatusCode.CANCELLED"
        assert client.infer(EMBEDDER, [_text(["a"], "text_input", 1)], timeout=LONG) is not None
    tensor = {"name": "text_input", "shape": [32, 1], "datatype": "BYTES", "data": MANY}
    body = {"inputs": [tensor], "parameters": {"timeout": 1_000}}
    answer = httpx.post(f"{complete.http_url}/v2/models/{EMBEDDER}/infer", json=body, timeout=60)
    assert answer.status_code >= 400 and "time is over, 0.001 s" in answer.text


@pytest.mark.parametrize(
    "model",
    [f"{EMBEDDER}-tokens", f"{EMBEDDER}-ensemble", "retrieve-rerank", "hybrid-search"],
)
def test_what_cannot_break_off_refuses_it(complete: ServerProcess, model: str) -> None:
    inputs = [_text(["a"], "text_input", 1)]
    if not model.startswith(EMBEDDER):
        inputs.append(_text(["a"], "query"))
    with triton.InferenceServerClient(complete.grpc_url) as client:
        with pytest.raises(InferenceServerException, match="timeout is 60 s"):
            client.infer(model, inputs, timeout=LONG)
        assert client.infer(model, inputs) is not None


def test_a_turn_keeps_to_it(complete: ServerProcess) -> None:
    """The generator did not hear of what gRPC's clients give."""
    found: queue.Queue[Any] = queue.Queue()
    options = _text(['{"max_tokens": 400, "ignore_eos": true}'], "sampling_parameters")
    inputs = [_text(["Once upon a time"]), options]
    with triton.InferenceServerClient(complete.grpc_url) as client:
        client.start_stream(lambda result, error: found.put(error or result))
        client.async_stream_infer(
            f"{GENERATOR}-session", inputs, sequence_id=771, sequence_start=True,
            sequence_end=True, timeout=200_000,
        )  # fmt: skip
        answer = found.get(timeout=60)
    left = re.search(r"time is over, (0[.0-9]*) s", str(answer))
    assert left is not None and float(left[1]) <= 0.2

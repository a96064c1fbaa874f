"""What an encoder's requests leave on /metrics, where they are noted after the answer was sent."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from measured import Page, settled
from tritonclient.utils import InferenceServerException

from atoll.launcher import ServerProcess
from atoll.serving.triton import latency_breakdown

MODEL = "all-minilm-l6-v2"


def embed(server: ServerProcess, texts: list[str], **parameters: Any) -> int:
    """Tokens of all texts, as the answer counts them."""
    query = triton.InferInput("text_input", [len(texts), 1], "BYTES")
    query.set_data_from_numpy(np.array(texts, dtype=object).reshape(-1, 1))
    with triton.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer(MODEL, [query], parameters=parameters or None)
    return int(answer.as_numpy("num_input_tokens").sum())


def differences(before: Page, after: Page) -> Page:
    """What has changed, and by how much."""
    found = {name: value - before.get(name, 0.0) for name, value in after.items()}
    return {name: value for name, value in found.items() if value}


def test_every_request_text_and_token_is_counted_once(embedded_server: ServerProcess) -> None:
    embed(embedded_server, ["so that every metric is there"])
    before = settled(embedded_server, MODEL)
    started = time.monotonic()
    requests = [["one text"], ["two", "texts of several words"], ["a", "b", "c"]]
    num_tokens = sum(embed(embedded_server, texts) for texts in requests)
    elapsed = time.monotonic() - started
    found = differences(before, settled(embedded_server, MODEL))
    request, inference, queue = (
        found.pop(f"atoll_{name}_seconds_sum") for name in ("request", "inference", "queue")
    )
    spent = [found.pop(latency_breakdown.counter(part)) for part in latency_breakdown.ENCODER]
    # The parts are all of the time from arrival to answer.
    assert min(spent) > 0 and sum(spent) == pytest.approx(request, rel=0.05)
    assert found == {
        "atoll_requests_total": 3,
        "atoll_request_seconds_count": 3,
        "atoll_texts_total": 6,
        "atoll_input_tokens_total": num_tokens,
        # Asked one after the other: each request is a pack.
        "atoll_batch_tokens_count": 3,
        "atoll_batch_tokens_sum": num_tokens,
        "atoll_inference_seconds_count": 3,
        "atoll_queue_seconds_count": 3,
    }
    # From arrival to answer holds the wait and the forward, and lies within what the client saw.
    assert min(queue, inference) > 0 and queue + inference < request < elapsed


def test_what_is_refused_counts_as_a_failure_of_its_kind(embedded_server: ServerProcess) -> None:
    embed(embedded_server, ["so that every metric is there"])
    before = settled(embedded_server, MODEL)
    for text, message in (("", "is empty"), ("word " * 600, "the model accepts")):
        with pytest.raises(InferenceServerException, match=message):
            embed(embedded_server, [text], truncate=False)
    found = differences(before, settled(embedded_server, MODEL))
    assert found["atoll_empty_failures_total"] == found["atoll_validation_failures_total"] == 1
    assert not any(name.startswith(("atoll_texts", "atoll_batch")) for name in found)

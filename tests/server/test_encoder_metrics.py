"""What an encoder's requests leave on /metrics, where they are noted after the answer was sent."""

from __future__ import annotations

import re
import time
import urllib.request
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from atoll.launcher import ServerProcess

MODEL = "all-minilm-l6-v2"
TIMEOUT_S = 20.0
# Notes are carried over every 20 ms; a page that stays the same for so long has them all.
STILL_S = 0.25

Page = dict[str, float]


def metrics(server: ServerProcess) -> Page:
    """The model's counters, and sums and counts of its histograms, by name."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
        page = response.read().decode()
    rows = re.findall(rf'^(atoll_\w+)\{{model="{MODEL}"\}} (\S+)$', page, re.MULTILINE)
    return {name: float(value) for name, value in rows}


def settled(server: ServerProcess, name: str, least: float) -> Page:
    """The page once ``name`` has reached ``least`` and nothing changes any more."""
    deadline = time.monotonic() + TIMEOUT_S
    page = metrics(server)
    while time.monotonic() < deadline:
        time.sleep(STILL_S)
        before, page = page, metrics(server)
        if page == before and page.get(name, 0.0) >= least:
            return page
    raise AssertionError(f"{name} is {page.get(name)} after {TIMEOUT_S} s; expected {least}")


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
    before = settled(embedded_server, "atoll_requests_total", 1)
    started = time.monotonic()
    requests = [["one text"], ["two", "texts of several words"], ["a", "b", "c"]]
    num_tokens = sum(embed(embedded_server, texts) for texts in requests)
    elapsed = time.monotonic() - started
    answered = before["atoll_requests_total"] + len(requests)
    found = differences(before, settled(embedded_server, "atoll_requests_total", answered))
    request, inference, queue = (
        found.pop(f"atoll_{name}_seconds_sum") for name in ("request", "inference", "queue")
    )
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
    before = settled(embedded_server, "atoll_requests_total", 1)
    for text, message in (("", "is empty"), ("word " * 600, "the model accepts")):
        with pytest.raises(InferenceServerException, match=message):
            embed(embedded_server, [text], truncate=False)
    refused = before.get("atoll_validation_failures_total", 0) + 1
    after = settled(embedded_server, "atoll_validation_failures_total", refused)
    found = differences(before, after)
    assert found["atoll_empty_failures_total"] == found["atoll_validation_failures_total"] == 1
    assert not any(name.startswith(("atoll_texts", "atoll_batch")) for name in found)

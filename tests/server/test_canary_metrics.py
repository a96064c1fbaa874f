"""The requests by which the launcher sees whether models answer are not in the models' metrics."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from measured import settled

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

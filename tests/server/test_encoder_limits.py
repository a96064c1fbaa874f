"""How many requests an encoder holds at once."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from atoll.catalogue import ENTRIES
from atoll.launcher import ServerProcess

MODEL = "all-minilm-l6-v2"


def tensor(texts: list[str]) -> Any:
    found = triton.InferInput("text_input", [len(texts), 1], "BYTES")
    found.set_data_from_numpy(np.array(texts, dtype=object).reshape(-1, 1))
    return found


def test_requests_beyond_the_limit_are_refused_until_others_are_answered(
    start_server: Callable[..., ServerProcess],
) -> None:
    entry = next(entry for entry in ENTRIES if entry.name == MODEL)
    settings = {**entry.settings, "max_concurrent_requests": "2"}
    server = start_server(entries=(replace(entry, settings=settings),))
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()
    long = [tensor(["word " * 250] * 8)]
    with triton.InferenceServerClient(server.grpc_url) as client:
        for _ in range(8):
            client.async_infer(MODEL, long, lambda result, error: found.put(error or result))
        answers = [found.get(timeout=120) for _ in range(8)]
        errors = [answer for answer in answers if isinstance(answer, InferenceServerException)]
        assert 1 <= len(errors) <= 6
        for error in errors:
            assert error.status() == "StatusCode.UNAVAILABLE"
            assert "2 requests are held; max_concurrent_requests is 2" in str(error)
        # Answered, refused and invalid ones hold nothing.
        for texts in (["a"], [""], ["b"], [""], ["c"]):
            try:
                client.infer(MODEL, [tensor(texts)])
            except InferenceServerException as error:
                assert texts == [""] and "is empty" in str(error)

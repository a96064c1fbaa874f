"""Asking the embedder of a server from a benchmark: many requests at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from harness.measure import Contestant

EMBEDDER = "all-minilm-l6-v2"
EMBEDDER_ID = "sentence-transformers/all-MiniLM-L6-v2"
GENERATOR_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def embed_through_server(url: str, documents: list[str], rows: int = 32) -> Contestant:
    """All documents in requests of ``rows``, eight in flight."""
    client = triton.InferenceServerClient(url)
    batches = [documents[i : i + rows] for i in range(0, len(documents), rows)]

    def run() -> float:
        def one(batch: list[str]) -> None:
            data = np.array(batch, dtype=object).reshape(-1, 1)
            tensor = triton.InferInput("text_input", list(data.shape), "BYTES")
            tensor.set_data_from_numpy(data)
            assert client.infer(EMBEDDER, [tensor]).as_numpy("embedding").shape[0] == len(batch)

        in_parallel(batches, one, workers=8)
        return len(documents)

    return run


def in_parallel(items: list[Any], work: Callable[[Any], None], workers: int) -> None:
    """``work`` on every item by ``workers`` threads; the first error is raised."""
    todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
    errors: list[BaseException] = []
    for item in items:
        todo.put(item)

    def loop() -> None:
        while not errors:
            try:
                item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                work(item)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=loop) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]

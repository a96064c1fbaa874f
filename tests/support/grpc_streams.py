"""Streams of a generator over gRPC, by Triton's own client."""

from __future__ import annotations

import contextlib
import json
import queue
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from atoll.launcher import ServerProcess

SERVICE = "/inference.GRPCInferenceService/"
MODEL = "smollm2-135m-instruct"


class Stream:
    """A gRPC stream that collects what comes, with the time of each response."""

    def __init__(self, server: ServerProcess) -> None:
        self.client = triton.InferenceServerClient(server.grpc_url)
        self.answers: queue.Queue[tuple[float, Any, Any]] = queue.Queue()
        self.client.start_stream(lambda result, error: self._put(result, error))

    def _put(self, result: Any, error: Any) -> None:
        self.answers.put((time.monotonic(), result, error))

    def ask(self, prompt: str, *, stream: bool = True, **options: Any) -> None:
        inputs = [
            tensor_of("text_input", [prompt.encode()]),
            tensor_of("stream", [stream]),
            tensor_of("sampling_parameters", [json.dumps(options).encode()]),
            tensor_of("return_token_ids", [True]),
        ]
        self.client.async_stream_infer(MODEL, inputs, enable_empty_final_response=True)

    def collect(self) -> tuple[list[str], list[int], list[float]]:
        """(texts, ids, times) of one answer."""
        texts: list[str] = []
        ids: list[int] = []
        times: list[float] = []
        while True:
            at, result, error = self.answers.get(timeout=120)
            if error is not None:
                raise error
            texts.append(result.as_numpy("text_output")[0].decode())
            ids += result.as_numpy("token_ids").tolist()
            times.append(at)
            if result.get_response().parameters["triton_final_response"].bool_param:
                return texts, ids, times

    def close(self, cancel: bool = False) -> None:
        self.client.stop_stream(cancel_requests=cancel)
        self.client.close()


def tensor_of(name: str, values: list[Any]) -> Any:
    array = np.array(values, dtype=object if isinstance(values[0], bytes) else None)
    tensor = triton.InferInput(name, list(array.shape), "BOOL" if array.dtype == bool else "BYTES")
    tensor.set_data_from_numpy(array)
    return tensor


@contextlib.contextmanager
def answers_of(client: Any, **options: Any) -> Iterator[queue.Queue[Any]]:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put(error or result), **options)
    try:
        yield answers
    finally:
        client.stop_stream()

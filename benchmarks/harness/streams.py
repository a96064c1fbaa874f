"""Streamed generation through a server, on token ids, with the times of the tokens."""

from __future__ import annotations

import json
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as triton


@dataclass
class Times:
    """Seconds of each request: to the first token, and between one token and the next."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)


class Streams:
    """Requests streamed over gRPC, all at once, each over its own open connection."""

    def __init__(self, url: str, model: str) -> None:
        self._url, self._model, self.times = url, model, Times()
        self._open: list[Stream] = []

    def generate(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """Greedy answers of ``count`` tokens; adds to ``times``."""
        while len(self._open) < len(prompts):
            self._open.append(Stream(self._url, self._model))
        with ThreadPoolExecutor(len(prompts)) as pool:
            answers = pool.map(
                lambda a: a[0].generate(a[1], count), zip(self._open, prompts, strict=False)
            )
            ids, first, between = zip(*answers, strict=True)
        self.times.first += first
        self.times.between += between
        return list(ids)


class Stream:
    """One request at a time."""

    def __init__(self, url: str, model: str) -> None:
        self._model = model
        self._answers: queue.Queue[Any] = queue.Queue()
        self._client = triton.InferenceServerClient(url)
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))

    def generate(self, prompt: list[int], count: int) -> tuple[list[int], float, float]:
        """The ids, the seconds to the first of them, and from one to the next."""
        sampling = {"temperature": 0, "max_tokens": count, "ignore_eos": True}
        values: list[tuple[str, str, Any]] = [
            ("input_ids", "INT32", np.array(prompt, dtype=np.int32)),
            ("stream", "BOOL", np.array([True])),
            ("return_token_ids", "BOOL", np.array([True])),
            ("sampling_parameters", "BYTES", np.array([json.dumps(sampling)], dtype=object)),
        ]
        inputs = []
        for name, kind, array in values:
            inputs.append(triton.InferInput(name, list(array.shape), kind))
            inputs[-1].set_data_from_numpy(array)
        sent = time.perf_counter()
        self._client.async_stream_infer(self._model, inputs, enable_empty_final_response=True)
        ids: list[int] = []
        first = last = sent
        while True:
            result, error = self._answers.get(timeout=600)
            if error is not None:
                raise error
            tokens = result.as_numpy("token_ids")
            if tokens is not None and tokens.size:
                last = time.perf_counter()
                first = first if ids else last
                ids += tokens.tolist()
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
        return ids, first - sent, (last - first) / max(1, len(ids) - 1)

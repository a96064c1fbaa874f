"""Two hundred clients at once for a while: all sorts of requests, and nothing may be left of them.

``ATOLL_SOAK_S=120 pytest tests/server/test_soak.py`` is the long run; the suite does a short one.
"""

from __future__ import annotations

import json
import os
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import transformers as hf
import tritonclient.grpc as triton
from measured import Page, settled, wait_for

from atoll.catalogue import entry_for, read_model
from atoll.launcher import ServerProcess
from atoll.weights.files import resolve

MODEL = "small"
SECONDS = float(os.environ.get("ATOLL_SOAK_S", "10"))
NUM_CLIENTS = 200
WORDS = ["lagoon", "reef", "coral", "sand", "tide", "palm"]
# Kinds of requests and how many of twenty are of each.
KINDS = ["whole"] * 8 + ["stream"] * 6 + ["cancelled"] * 4 + ["bad"] * 2
BAD: list[dict[str, Any]] = [
    {"temperature": "hot"}, {"max_tokens": 0}, {"max_tokens": 9000}, {"no_such_option": 1},
    {"guided_regex": "("}, {"adapter_id": "nobody"},
]  # fmt: skip


def _tensor(name: str, value: Any) -> Any:
    kind = "BOOL" if isinstance(value, bool) else "BYTES"
    tensor = triton.InferInput(name, [1], kind)
    tensor.set_data_from_numpy(np.array([value], dtype=bool if kind == "BOOL" else object))
    return tensor


class Client(threading.Thread):
    """One request after the other until the time is over; counts how each of them ended."""

    def __init__(self, server: ServerProcess, seed: int, until: float) -> None:
        super().__init__(daemon=True)
        self._url, self._random, self._until = server.grpc_url, random.Random(seed), until
        self.ends: Counter[str] = Counter()

    def run(self) -> None:
        while time.monotonic() < self._until:
            kind = self._random.choice(KINDS)
            try:
                self.ends[f"{kind}: {self._one(kind)}"] += 1
            except queue.Empty:
                self.ends[f"{kind}: never answered"] += 1

    def _one(self, kind: str) -> str:
        client = triton.InferenceServerClient(self._url)
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        num_words = self._random.choice([1, 5, 20, 100])
        words = self._random.choices(
            ["lagoon", "reef", "coral", "sand", "tide", "palm"], k=num_words
        )
        options: dict[str, Any] = {
            "max_tokens": self._random.choice([1, 4, 16, 64]), "ignore_eos": True
        }  # fmt: skip
        if kind == "bad":
            options = self._random.choice(BAD)
        elif kind == "cancelled":
            options["max_tokens"] = 900
        elif self._random.random() < 0.5:
            options |= {"temperature": 1.0, "top_k": 20}
        inputs = [
            _tensor("text_input", " ".join(words).encode()),
            _tensor("stream", kind in ("stream", "cancelled")),
            _tensor("sampling_parameters", json.dumps(options).encode()),
        ]
        client.async_stream_infer(MODEL, inputs, enable_empty_final_response=True)
        try:
            if kind == "cancelled":
                time.sleep(self._random.random())
                return "left"
            return _end(answers)
        finally:
            client.stop_stream(cancel_requests=kind == "cancelled")
            client.close()


def _end(answers: queue.Queue[tuple[Any, Any]]) -> str:
    while True:
        result, error = answers.get(timeout=120)
        if error is not None:
            return "overloaded" if "max_concurrent_requests" in str(error) else "refused"
        if result.get_response().parameters["triton_final_response"].bool_param:
            return "answered"


def _memory_mb(server: ServerProcess) -> dict[str, float]:
    """Resident memory of the server, and of its largest child, which is the generator."""
    main = psutil.Process(server.pid)
    stubs = [p.memory_info().rss for p in main.children(recursive=True)]
    return {"server": main.memory_info().rss / 2**20, "generator": max(stubs) / 2**20}


def _load(server: ServerProcess, seconds: float, seed: int) -> Counter[str]:
    clients = [Client(server, seed + i, time.monotonic() + seconds) for i in range(NUM_CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(timeout=seconds + 180)
    assert not [client for client in clients if client.is_alive()]
    return sum((client.ends for client in clients), Counter())


def _settle(server: ServerProcess) -> Page:
    """Metrics once nothing runs or waits."""
    for name in ("atoll_requests_running", "atoll_requests_waiting", "atoll_kv_blocks_used"):
        wait_for(server, MODEL, name, lambda value: value == 0)
    return settled(server, MODEL)


@pytest.fixture
def server(start_server: Callable[..., ServerProcess], tmp_path: Path) -> ServerProcess:
    """A small Llama with a cache that is too small for what is asked, so that requests preempt."""
    config = hf.LlamaConfig(
        vocab_size=49152, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
    )  # fmt: skip
    hf.LlamaForCausalLM(config).save_pretrained(tmp_path / MODEL)
    words = resolve("HuggingFaceTB/SmolLM2-135M-Instruct")
    tokenizer = hf.AutoTokenizer.from_pretrained(str(words))
    tokenizer.save_pretrained(tmp_path / MODEL)
    folder = str(tmp_path / MODEL)
    settings = {"max_batch_total_tokens": "8192"}
    return start_server(
        entries=(entry_for(folder, read_model(Path(folder)), name=MODEL, settings=settings),)
    )


def _is_held(start: dict[str, float], end: dict[str, float]) -> bool:
    """Whether memory has stayed what it was, in MB, but for a little."""
    is_held = end["generator"] < start["generator"] * 1.05 + 50
    return is_held and end["server"] < start["server"] * 1.2 + 50


def test_nothing_is_left_of_200_clients(server: ServerProcess) -> None:
    _load(server, min(5.0, SECONDS / 2), seed=10**6)  # what is allocated once
    before, start = _settle(server), _memory_mb(server)
    ends = _load(server, SECONDS, seed=0)
    after, end = _settle(server), _memory_mb(server)
    print(f"{ends}\nmemory, MB: {start} -> {end}")
    by_kind = {kind: {k: n for k, n in ends.items() if k.startswith(kind)} for kind in KINDS}
    assert set(by_kind["whole"]) <= {"whole: answered", "whole: overloaded"}
    assert set(by_kind["stream"]) <= {"stream: answered", "stream: overloaded"}
    assert set(by_kind["bad"]) <= {"bad: refused", "bad: overloaded"}
    assert min(ends["whole: answered"], ends["stream: answered"], ends["bad: refused"]) > 0

    def grown(name: str) -> float:
        return after.get(f"atoll_{name}", 0) - before.get(f"atoll_{name}", 0)

    failed = [n.removeprefix("atoll_") for n in after if n.startswith("atoll_requests_failed_")]
    succeeded = grown("requests_succeeded_total")
    ended = succeeded + grown("requests_cancelled_total") + sum(map(grown, failed))
    answered = ends["whole: answered"] + ends["stream: answered"]
    # A client that leaves at once may never have been seen by the model.
    assert answered <= succeeded and ended <= ends.total()
    assert ended >= ends.total() - ends["cancelled: left"]
    assert grown("failed_steps_total") == 0
    if not _is_held(start, end):
        # On a busy machine what is allocated once comes later; what is lost is lost again.
        _load(server, SECONDS, seed=1)
        _settle(server)
        start, end = end, _memory_mb(server)
    assert _is_held(start, end), (start, end)

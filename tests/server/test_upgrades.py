"""A new version of a model, and the old one again, while requests go on: none fails, and each is
answered by the version that it says. And what is said of a model that does not answer at all."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gateways import Served, fronted
from serving import ONE_THREAD
from tiny.checkpoint import enliven
from tiny.encoders import write_text_files

from atoll.catalogue import write_repository
from atoll.cli.choose import entry_of
from atoll.launcher import ServerOptions, ServerProcess
from atoll.launcher.stubs import find_stubs

NUM_REQUESTS = 60
IDS = [2, 40, 41, 42, 3]
TENSOR = {"name": "input_ids", "datatype": "INT32", "shape": [1, len(IDS)], "data": IDS}


def _write(folder: Path, seed: int) -> None:
    import transformers as hf

    config = hf.BertConfig(
        vocab_size=96, num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=64,
        hidden_size=32, intermediate_size=32,
    )  # fmt: skip
    model: Any = hf.BertModel(config)
    enliven(model.eval(), seed)
    model.save_pretrained(folder)
    write_text_files(folder, pooling="cls")


def _vector(answer: httpx.Response) -> tuple[str, list[float]]:
    """Which version has answered, and what."""
    assert answer.status_code == 200, answer.text
    found = answer.json()
    (data,) = [o["data"] for o in found["outputs"] if o["name"] == "embedding"]
    return found["model_version"], data


def _load(server: ServerProcess, name: str = "grows", what: str = "load") -> httpx.Response:
    path = f"{server.http_url}/v2/repository/models/{name}/{what}"
    return httpx.post(path, headers=server.admin_headers, timeout=120)


@dataclass(frozen=True)
class Grown:
    """The server and gateway of a repository with the model ``grows``; weights: by version."""

    served: Served
    root: Path
    weights: Path


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grown]:
    """Weights are in the versions' folders; model_id is relative to them."""
    base = tmp_path_factory.mktemp("grown")
    root, weights = base / "models", base / "weights"
    for seed in (1, 2):
        _write(weights / str(seed), seed)
    write_repository([entry_of(str(weights / "1"), {"served_model_name": "grows"})], root)
    config = root / "grows" / "config.pbtxt"
    config.write_text(config.read_text().replace(str(weights / "1"), "checkpoint"))
    shutil.copytree(weights / "1", root / "grows" / "1" / "checkpoint")
    options = ServerOptions.on_free_ports(
        repository=root, watch_interval_s=0.5, exit_timeout_s=3, environment=ONE_THREAD
    )
    with ServerProcess(options) as server, fronted(server) as served:
        yield Grown(served, root, weights)


def test_an_upgrade_and_a_rollback_fail_no_request(
    grown: Grown, caplog: pytest.LogCaptureFixture
) -> None:
    served, root, weights, server = grown.served, grown.root, grown.weights, grown.served.server
    with ThreadPoolExecutor(2) as threads:
        url = f"{served.url}/v2/models/grows/infer"
        answers: list[tuple[str, list[float]]] = []
        is_over = threading.Event()

        def ask() -> None:
            with httpx.Client(timeout=60) as http:
                while not is_over.is_set():
                    answers.append(_vector(http.post(url, json={"inputs": [TENSOR]})))

        def wait_for_more(count: int) -> None:
            wanted, deadline = len(answers) + count, time.monotonic() + 120
            while len(answers) < wanted:
                assert not any(task.done() for task in tasks), [t.exception() for t in tasks]
                assert time.monotonic() < deadline
                time.sleep(0.01)

        tasks = [threads.submit(ask) for _ in range(2)]
        try:
            wait_for_more(NUM_REQUESTS // 3)
            new = root / "grows" / "2"
            shutil.copytree(root / "grows" / "1", new, ignore=shutil.ignore_patterns("checkpoint"))
            shutil.copytree(weights / "2", new / "checkpoint")
            assert _load(server).status_code == 200
            wait_for_more(NUM_REQUESTS // 3)
            # Three rounds of the watchdog, which asked for the version that is gone.
            time.sleep(1.5)
            assert server.num_reloads == 0 and "canary" not in caplog.text
            shutil.rmtree(new)
            assert _load(server).status_code == 200
            wait_for_more(NUM_REQUESTS // 3)
        finally:
            is_over.set()
        for task in tasks:
            task.result()
    first = {version: data for version, data in reversed(answers)}
    assert set(first) == {"1", "2"} and len(answers) >= NUM_REQUESTS
    for version, data in answers:
        np.testing.assert_allclose(data, first[version], atol=1e-5)
    assert not np.allclose(first["1"], first["2"], atol=1e-2)
    assert [answers[0][0], answers[-1][0]] == ["1", "1"]


def _status(grown: Grown, path: str) -> int:
    return httpx.get(f"{grown.served.url}{path}", timeout=60).status_code


def _wait_for(grown: Grown, path: str, wanted: int) -> None:
    deadline = time.monotonic() + 60
    while _status(grown, path) != wanted:
        assert time.monotonic() < deadline, (path, wanted)
        time.sleep(0.1)


def test_another_model_that_fails_to_load_is_not_ready(grown: Grown) -> None:
    """Triton itself is not ready from then on."""
    broken = grown.root / "broken"
    shutil.copytree(grown.root / "grows", broken)
    text = (broken / "config.pbtxt").read_text()
    (broken / "config.pbtxt").write_text(text.replace('"grows"', '"broken"'))
    (broken / "1" / "checkpoint" / "model.safetensors").write_bytes(b"broken")
    assert _load(grown.served.server, "broken").status_code == 400
    _wait_for(grown, "/v2/models/broken/ready", 400)
    paths = ("/health", "/v1/health/ready", "/v2/health/ready", "/v2/models/grows/ready")
    assert [_status(grown, path) for path in paths] == [200] * 4


def test_a_model_whose_process_does_not_answer_is_not_ready(grown: Grown) -> None:
    """Triton goes on to call it ready, and nobody has the launcher's watchdog in a container."""
    server = grown.served.server
    assert server.watchdog is not None
    server.watchdog.stop()
    ready = ("/v2/models/grows/ready", "/v2/models/grows/versions/1/ready", "/health")
    try:
        (stub,) = (stub for stub in find_stubs(server.pid) if stub.model == "grows")
        for number in (signal.SIGSTOP, signal.SIGKILL):
            os.kill(stub.pid, number)
            for path in ready:
                _wait_for(grown, path, 503 if path == "/health" else 400)
            assert _status(grown, "/v1/health/live") == 200
    finally:
        _load(server, what="unload")
        assert _load(server).status_code == 200
    for path in ready:
        _wait_for(grown, path, 200)

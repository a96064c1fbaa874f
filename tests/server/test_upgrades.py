"""A new version of a model, and the old one again, while requests go on: none fails, and each is
answered by the version that it says. The watchdog asks the versions that there are."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gateways import fronted
from small_models import StartServer
from tiny.checkpoint import enliven
from tiny.encoders import write_text_files

from atoll.catalogue import write_repository
from atoll.cli.choose import entry_of
from atoll.launcher import ServerProcess

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


def _load(server: ServerProcess) -> None:
    path = f"{server.http_url}/v2/repository/models/grows/load"
    answer = httpx.post(path, headers=server.admin_headers, timeout=120)
    assert answer.status_code == 200, answer.text


def test_an_upgrade_and_a_rollback_fail_no_request(
    start_server: StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights are in the versions' folders; model_id is relative to them."""
    root, weights = tmp_path / "models", tmp_path / "weights"
    for seed in (1, 2):
        _write(weights / str(seed), seed)
    write_repository([entry_of(str(weights / "1"), {"served_model_name": "grows"})], root)
    config = root / "grows" / "config.pbtxt"
    config.write_text(config.read_text().replace(str(weights / "1"), "checkpoint"))
    shutil.copytree(weights / "1", root / "grows" / "1" / "checkpoint")
    server = start_server(repository=root, watch_interval_s=0.5)
    with fronted(server) as served, ThreadPoolExecutor(3) as threads:
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
            _load(server)
            wait_for_more(NUM_REQUESTS // 3)
            # Three rounds of the watchdog, which asked for the version that is gone.
            time.sleep(1.5)
            assert server.num_reloads == 0 and "canary" not in caplog.text
            shutil.rmtree(new)
            _load(server)
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

"""Batches when the gateway is killed or stopped, the disk is full, or their time is over."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from batches import lines_of, requests, start, upload, wait
from gateways import EMBEDDER, GENERATOR, Served, start_gateway

from atoll.launcher.gateway import GatewayProcess

EMBED, COMPLETE = "/v1/embeddings", "/v1/completions"


@contextmanager
def _running(served: Served, folder: Path, **settings: str) -> Iterator[GatewayProcess]:
    gateway = start_gateway(served.server.grpc_url, batch_folder=str(folder), **settings)
    try:
        gateway.wait_ready()
        yield gateway
    finally:
        gateway.stop()


@contextmanager
def _client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.options.url}/v1", api_key="a", max_retries=0) as client:
        yield client


def _wait_for_answers(client: openai.OpenAI, batch_id: str, count: int) -> None:
    while True:
        found = wait(client, batch_id, "in_progress").request_counts
        if found is not None and found.completed >= count:
            return


def _embeddings(count: int) -> list[dict[str, Any]]:
    return requests(EMBED, [{"model": EMBEDDER, "input": f"text {i}"} for i in range(count)])


def test_killed_in_the_middle(served: Served, tmp_path: Path) -> None:
    """Every line is answered once, although the last one on disk was cut off."""
    with _running(served, tmp_path) as gateway, _client(gateway) as client:
        lines = _embeddings(300)
        # One that fails, early on.
        lines.insert(
            3, {**lines[0], "custom_id": "wrong", "body": {"model": EMBEDDER, "input": ""}}
        )
        batch = start(client, EMBED, lines)
        _wait_for_answers(client, batch.id, 20)
        os.kill(gateway.pid, signal.SIGKILL)
        output = tmp_path / "work" / batch.id / "output"
        before = output.read_bytes()
        assert before.count(b"\n") < 300
        with open(output, "ab") as file:
            file.write(before[:100] + b"\x00" * 50)
        # What a crash in the middle of an upload leaves.
        (tmp_path / "uploads" / "left").write_bytes(b"a")
        batch = wait(client, batch.id)
        assert gateway.num_restarts == 1 and batch.status == "completed"
        assert batch.request_counts is not None and batch.request_counts.to_dict() == {
            "total": 301, "completed": 300, "failed": 1,
        }  # fmt: skip
        found = lines_of(client, batch.output_file_id)
        assert Counter(line["custom_id"] for line in found) == {f"r{i}": 1 for i in range(300)}
        (failed,) = lines_of(client, batch.error_file_id)
        assert failed["custom_id"] == "wrong"
        assert client.files.content(batch.output_file_id or "").read().startswith(before)
        assert batch.usage is not None and batch.usage.input_tokens == sum(
            line["response"]["body"]["usage"]["prompt_tokens"] for line in found
        )
        assert not [*(tmp_path / "uploads").iterdir(), *(tmp_path / "work").iterdir()]


def test_stopped_then_expired(served: Served, tmp_path: Path) -> None:
    """A stop ends what runs and keeps it; what is late is not begun, and expires with files."""
    body = {"model": GENERATOR, "prompt": "One", "max_tokens": 8, "ignore_eos": True}
    with _running(served, tmp_path) as gateway, _client(gateway) as client:
        batch = start(client, COMPLETE, requests(COMPLETE, [body] * 150))
        kept = upload(client, b"a")
        _wait_for_answers(client, batch.id, 1)
    record = tmp_path / "batches" / f"{batch.id}.json"
    found = json.loads(record.read_text())
    assert found["batch"]["status"] == "in_progress"
    answered = (tmp_path / "work" / batch.id / "output").read_bytes().splitlines()
    assert 1 <= len(answered) < 150
    found["batch"]["expires_at"] = found["batch"]["created_at"]
    record.write_text(json.dumps(found))
    file = tmp_path / "files" / f"{kept}.json"
    stored = json.loads(file.read_text())
    stored["file"]["expires_at"] = 1
    file.write_text(json.dumps(stored))
    # Neither of these was written by this program.
    (tmp_path / "files" / "file-broken.json").write_text("{")
    (tmp_path / "files" / "file-other.data").write_text("a")
    with _running(served, tmp_path) as gateway, _client(gateway) as client:
        batch = wait(client, batch.id)
        assert batch.status == "expired" and batch.expired_at and batch.request_counts
        assert len(lines_of(client, batch.output_file_id)) == len(answered)
        errors = lines_of(client, batch.error_file_id)
        assert batch.request_counts.failed == len(errors) == 150 - len(answered)
        assert {line["error"]["code"] for line in errors} == {"batch_expired"}
        assert {line["response"] for line in errors} == {None}
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(kept)
        assert not (tmp_path / "files" / "file-other.data").exists()


def test_a_full_disk(served: Served, tmp_path: Path) -> None:
    """Uploads fail with a reason; a batch waits, and loses nothing."""
    with _running(served, tmp_path) as gateway, _client(gateway) as client:
        batch = start(client, EMBED, _embeddings(100))
        _wait_for_answers(client, batch.id, 1)
        unlimited = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (300_000, unlimited[1]))
        with pytest.raises(openai.InternalServerError, match="cannot be written"):
            upload(client, b"a" * 400_000)
        assert not list((tmp_path / "uploads").iterdir())
        while 'batch_lines_total{result="completed"} 100' not in _metrics(gateway):
            pass
        found = client.batches.retrieve(batch.id)
        assert found.status == "in_progress" and found.request_counts
        assert 0 < found.request_counts.completed < 100
        resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, unlimited)
        batch = wait(client, batch.id)
        assert batch.status == "completed" and gateway.num_restarts == 0
        lines = lines_of(client, batch.output_file_id)
        assert Counter(line["custom_id"] for line in lines) == {f"r{i}": 1 for i in range(100)}


def test_others_are_not_refused(served: Served, tmp_path: Path) -> None:
    """A batch has its own places, and waits for the model's rather than failing."""
    with _running(served, tmp_path, max_concurrent_requests="1") as gateway:
        with _client(gateway) as client:
            batch = start(client, EMBED, _embeddings(150))
            while client.batches.retrieve(batch.id).status != "completed":
                answer = httpx.post(f"{gateway.options.url}/embed", json={"inputs": "a"})
                assert answer.status_code == 200, answer.text
            batch = client.batches.retrieve(batch.id)
            assert len(lines_of(client, batch.output_file_id)) == 150
        assert 'batch_lines_total{result="completed"} 150' in _metrics(gateway)


def _metrics(gateway: GatewayProcess) -> str:
    return httpx.get(f"{gateway.options.url}/metrics").text

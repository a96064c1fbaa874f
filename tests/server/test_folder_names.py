"""Folders of models and of the hub's cache with blanks and beyond ASCII, in a real server."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
from in_process import write_embedder
from serving import serving

COMMIT = "0" * 39 + "1"


def test_models_and_caches_beyond_ascii(tmp_path: Path) -> None:
    parent = tmp_path / "Häuser und 环礁"
    local, home = parent / "Modèle ü 你好", parent / "HF home é"
    repository = home / "hub" / "models--org--riff"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (local, snapshot):
        folder.mkdir(parents=True)
        write_embedder(folder)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    models = (f"--model-id={local}", "--model-id=org/riff")
    with serving(tmp_path, *models, HF_HOME=str(home), HF_HUB_OFFLINE="1") as server:
        found = httpx.get(f"{server.url()}/v1/models", timeout=30).json()["data"]
        assert len(found) == 2
        for model in found:
            body = {"model": model["id"], "input": "a reef"}
            answer = httpx.post(f"{server.url()}/v1/embeddings", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
        server.stop(signal.SIGINT)

"""Folders of models and of the hub's cache with blanks and beyond ASCII, in a real server."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from in_process import write_embedder
from serving import serving

from atoll.catalogue import ENTRIES, write_repository
from atoll.errors import ConfigError
from atoll.launcher import ServerOptions, ServerProcess

COMMIT = "0" * 39 + "1"


def test_a_temporary_folder_that_a_shell_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ended as it loaded, and named nothing."""
    folder = tmp_path / "tmp with $a blank"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(ConfigError, match="TMPDIR.*'.*tmp with"), ServerProcess.embedded():
        pass
    assert not list(folder.iterdir())


def test_an_entry_whose_name_a_shell_breaks(tmp_path: Path) -> None:
    write_repository([replace(ENTRIES[0], name="two words")], tmp_path)
    options = ServerOptions.on_free_ports(repository=tmp_path)
    with pytest.raises(ConfigError, match="folder is 'two words'"), ServerProcess(options):
        pass


def test_a_repository_that_a_shell_breaks(tmp_path: Path) -> None:
    """The server ended as it loaded: "terminate called ... stol"."""
    root = tmp_path / "my models"
    write_repository([ENTRIES[0]], root)
    options = ServerOptions.on_free_ports(repository=root)
    with pytest.raises(ConfigError, match="repository is '.*my models'"), ServerProcess(options):
        pass


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
        found = httpx.get(f"{server.url()}/v1/models", timeout=60).json()["data"]
        assert len(found) == 2
        for model in found:
            body = {"model": model["id"], "input": "a reef"}
            answer = httpx.post(f"{server.url()}/v1/embeddings", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
        server.stop(signal.SIGINT)

"""What operators of their own tritonserver write into config.pbtxt and send to it."""

from __future__ import annotations

import json
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atoll.errors import NotReady
from atoll.launcher import ServerProcess
from atoll_client import Client

REPOSITORY = Path(__file__).parents[2] / "model_repository"
StartServer = Callable[..., ServerProcess]
EMBEDDER, GENERATOR = "all-minilm-l6-v2", "smollm2-135m-instruct"


def _entry(folder: Path, addition: str) -> Path:
    """A repository with the embedder, and something more in its config.pbtxt."""
    shutil.copytree(REPOSITORY / EMBEDDER, folder / EMBEDDER)
    config = folder / EMBEDDER / "config.pbtxt"
    config.write_text(config.read_text() + addition)
    return folder


def _post(server: ServerProcess, path: str, body: dict[str, Any]) -> str:
    """The answer, an error's too."""
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/{path}", json.dumps(body).encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def test_a_response_cache_is_refused(start_server: StartServer, tmp_path: Path) -> None:
    """Triton's cache ignores request parameters: ``normalize`` had no effect on a text that was
    asked for before, and a gateway that asked for tokens was given what the model is."""
    folder = _entry(tmp_path / "models", "\nresponse_cache { enable: true }\n")
    with pytest.raises(NotReady, match="response_cache is enabled in config.pbtxt"):
        start_server(repository=folder)


def test_parameters_of_the_python_backend_are_not_ours(
    start_server: StartServer, tmp_path: Path
) -> None:
    """An entry with a parameter of Triton's own, EXECUTION_ENV_PATH say, did not load."""
    own = '\nparameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }\n'
    server = start_server(repository=_entry(tmp_path / "models", own))
    found = json.loads(_post(server, f"{EMBEDDER}/generate", {"text_input": "coral"}))
    assert len(found["embedding"]) == 384


def test_clients_are_told_how_many_rows_an_entry_takes(
    start_server: StartServer, tmp_path: Path
) -> None:
    """``max_batch_size`` was lowered, and the model still told that it takes 256 texts: gateway and
    client, which cut long lists to that, sent requests that Triton refused."""
    folder = _entry(tmp_path / "models", "")
    config = folder / EMBEDDER / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 256", "max_batch_size: 2"))
    server = start_server(repository=folder)
    with Client(server.grpc_url) as client:
        vectors = client.embed(["a", "b", "c", "d", "e"])
    assert len(vectors) == 5


def test_a_request_over_generate_may_have_an_id(embedded_server: ServerProcess) -> None:
    """``id`` is how Triton's generate extension names a request; it was refused as an unknown
    parameter, so that nothing asked over HTTP could be cancelled by its id."""
    found = json.loads(
        _post(embedded_server, f"{EMBEDDER}/generate", {"id": "mine", "text_input": "coral"})
    )
    assert len(found["embedding"]) == 384
    body = {"id": "mine", "text_input": "coral", "max_tokens": 2000, "ignore_eos": True}
    answers: list[str] = []
    thread = threading.Thread(
        target=lambda: answers.append(
            _post(embedded_server, f"{GENERATOR}/generate_stream", {**body, "stream": True})
        )
    )
    thread.start()
    question = json.dumps({"op": "cancel", "request_id": "mine"})
    asked = {"text_input": "", "control": question}
    while thread.is_alive():
        if json.loads(_post(embedded_server, f"{GENERATOR}/generate", asked))["control"] == "true":
            break
    thread.join(30)
    assert "cancelled" in answers[0]

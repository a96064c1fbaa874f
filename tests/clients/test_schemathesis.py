"""schemathesis sends what the description allows and what it forbids to every route: all answers
are as described, and what violates it is refused.

It takes two minutes with 2 examples for each operation besides those that cover each field once.
The long form, whose examples are also random: ``ATOLL_SCHEMATHESIS_EXAMPLES=200 python -m pytest
tests/clients/test_schemathesis.py --timeout 7200``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from echo import TEMPLATES, write_echo
from gateways import EMBEDDER, Served, start_gateway
from serving import ONE_THREAD

from atoll.catalogue import ENTRIES
from atoll.launcher import ServerProcess

# Before a server is started for it.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("schemathesis") is None,
        reason="schemathesis is not installed: see requirements/clients.txt",
    ),
]
_KEY = "k"
# Not a header of all requests: some are sent without it, and have to be refused.
_CONFIG = f'[auth.openapi.bearer]\nbearer = "{_KEY}"\n[auth.openapi.key]\napi_key = "{_KEY}"\n'
_BATCH = {"purpose": "batch"}
_EMBEDDINGS = {"endpoint": "/v1/embeddings", "completion_window": "24h"}
_EXAMPLES = os.environ.get("ATOLL_SCHEMATHESIS_EXAMPLES", "")


@pytest.fixture(scope="module")
def url(scoring: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway with a key and a model for every route; answers have at most 64 tokens."""
    from atoll.cli.choose import entry_of
    from atoll.launcher.options import ServerOptions

    folder = tmp_path_factory.mktemp("generator") / "short"
    write_echo(folder, *TEMPLATES["hermes"])
    entries = (
        next(entry for entry in ENTRIES if entry.name == EMBEDDER),
        entry_of(str(folder), {"task": "generate", "max_total_tokens": "64"}),
    )
    options = ServerOptions.on_free_ports(
        entries=entries, exit_timeout_s=3, watch_interval_s=0.0, environment=ONE_THREAD
    )
    with ServerProcess(options) as server:
        servers = f"{server.grpc_url},{scoring.server.grpc_url}"
        kept = str(tmp_path_factory.mktemp("batches"))
        gateway = start_gateway(servers, api_key=_KEY, batch_folder=kept)
        try:
            gateway.wait_ready()
            yield gateway.options.url
        finally:
            gateway.stop()


def test_schemathesis_finds_nothing(url: str, tmp_path: Path) -> None:
    description = httpx.get(f"{url}/openapi.json").json()
    known = {"model": [EMBEDDER], "version": ["1"]}
    with httpx.Client(base_url=url, headers={"x-api-key": _KEY}) as http:
        stored = http.post("/v1/responses", json={"input": "a", "max_output_tokens": 1})
        known["response_id"] = [stored.json()["id"]]
        line = {"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}}
        files = {"file": ("lines.jsonl", json.dumps(line))}
        known["file_id"] = [http.post("/v1/files", files=files, data=_BATCH).json()["id"]]
        asked = {**_EMBEDDINGS, "input_file_id": known["file_id"][0]}
        known["batch_id"] = [http.post("/v1/batches", json=asked).json()["id"]]
    for path in description["paths"].values():
        for method, operation in [*path.items()]:
            if operation.get("security") == [{"admin": []}]:
                del path[method]  # needs a launcher
            else:
                _prepare(operation, known)
    (tmp_path / "openapi.json").write_text(json.dumps(description))
    (tmp_path / "schemathesis.toml").write_text(_CONFIG)
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", url,
        # What a model cannot do is in no schema.
        "--checks", "all", "--exclude-checks", "positive_data_acceptance", "--warnings", "off",
        "--max-examples", _EXAMPLES or "2",
        "--phases", "examples,coverage,fuzzing" + ",stateful" * bool(_EXAMPLES),
        "--continue-on-failure", "--request-timeout", "60", "--max-response-time", "60",
        *([] if _EXAMPLES else ["--generation-deterministic"]),
    ]  # fmt: skip
    limit_s = 7000 if _EXAMPLES else 280
    run = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, cwd=tmp_path)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "No issues found" in run.stdout


def _prepare(operation: Any, known: dict[str, list[str]]) -> None:
    """Names what exists, since else all requests would be for what does not."""
    for one in operation.get("parameters", ()):
        if one["in"] == "path":
            one["schema"] = {"enum": known[one["name"]]}
    # Ours is the schema of an event's data, as in OpenAI's description; there, it would be that of
    # the event. test_contract compares them.
    operation["responses"]["200"]["content"].get("text/event-stream", {}).clear()

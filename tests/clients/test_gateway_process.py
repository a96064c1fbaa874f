"""``atoll-gateway`` as a process: what it prints, and who may see what."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as triton
from fake_triton import FakeTriton
from gateways import free_port
from scripted import run
from tritonclient.utils import InferenceServerException

from atoll_client.types import ModelInfo


@contextmanager
def gateway_process(*arguments: str, **variables: str) -> Iterator[tuple[str, list[str]]]:
    """Its URL, and the lines of its standard error once it has ended."""
    port = free_port()
    command = [sys.executable, "-m", "atoll_client.gateway.main", f"--port={port}", *arguments]
    environment = {**os.environ, **variables}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    lines: list[str] = []
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{url}/v1/health/live")
                break
            except httpx.TransportError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
        yield url, lines
    finally:
        process.terminate()
        lines += process.communicate(timeout=60)[1].splitlines()


def test_a_server_that_does_not_answer_is_named_and_requests_are_logged() -> None:
    """It printed nothing at all, and answered 503."""
    address = f"127.0.0.1:{free_port()}"
    arguments = (f"--server={address}", "--log-requests=json", "--api-key=secret")
    with gateway_process(*arguments) as (url, lines):
        headers = {"authorization": "Bearer secret", "x-request-id": "one"}
        body = {"messages": [{"role": "user", "content": "a private text"}]}
        assert (
            httpx.post(
                f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60
            ).status_code
            == 503
        )
        assert httpx.post(f"{url}/embed", json={"inputs": "x"}, timeout=60).status_code == 401
    text = "\n".join(lines)
    assert f"listening on {url}" in text and f"server {address} does not answer" in text
    assert "private" not in text and "secret" not in text
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    chat = next(one for one in logged if one["path"] == "/v1/chat/completions")
    assert (chat["id"], chat["status"], chat["error"]) == ("one", 503, "unhealthy")
    assert chat["seconds"] >= 0 and chat["method"] == "POST"
    assert [one["status"] for one in logged if one["path"] == "/embed"] == [401]


def test_every_line_as_json() -> None:
    """uvicorn's and those of requests, too; by the variables of all processes of a server."""
    variables = {"ATOLL_LOG_FORMAT": "json", "ATOLL_LOG_REQUESTS": "1", "ATOLL_LOG_LEVEL": "info"}
    with gateway_process("--server=127.0.0.1:1", **variables) as (url, lines):
        httpx.get(f"{url}/health", timeout=60)
    logged = [json.loads(line) for line in lines]
    assert {(one["process"], one["level"]) for one in logged} >= {
        ("gateway", "info"), ("gateway", "warning"),
    }  # fmt: skip
    assert "uvicorn.error" in {one["logger"] for one in logged}
    assert [one["status"] for one in logged if one.get("path") == "/health"][-1] == 503


def test_requests_as_text() -> None:
    with gateway_process("--server=127.0.0.1:1", "--log-requests=text") as (url, lines):
        httpx.get(f"{url}/health?x=1", timeout=60)
    (line,) = (line for line in lines if "/health" in line and "503" in line)
    assert 'method="GET" path="/health"' in line and "status=503" in line


def test_calls_over_grpc_are_logged() -> None:
    """There were lines of requests over HTTP only."""
    port = free_port()
    arguments = ("--server=127.0.0.1:1", f"--grpc-port={port}", "--log-requests=json")
    with (
        gateway_process(*arguments, "--api-key=secret") as (_, lines),
        triton.InferenceServerClient(f"127.0.0.1:{port}") as client,
    ):
        for headers in ({}, {"authorization": "Bearer secret", "x-request-id": "one"}):
            with pytest.raises(InferenceServerException):
                client.get_model_metadata("a-model", headers=headers)
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    path = "/inference.GRPCInferenceService/ModelMetadata"
    calls = [one for one in logged if one["path"] == path]
    assert [one["status"] for one in calls] == [401, 503] and calls[1]["id"] == "one"


def test_a_form_of_the_log_that_there_is_not() -> None:
    command = [sys.executable, "-m", "atoll_client.gateway.main", "--log-requests=xml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (
        done.returncode == 2
        and "log_requests is 'xml'; allowed: true, false, text, json" in done.stderr
    )


def test_info_needs_the_key_and_neither_it_nor_the_page_shows_paths() -> None:
    models = {"m": {"task": "embed", "model_id": "/home/somebody/checkpoints/mini"}}

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        html = {"accept": "text/html"}
        page = await http.get("/", headers=html)
        # It asks for the key itself; nothing of the models is in it.
        assert page.status_code == 200 and "mini" not in page.text
        for path in ("/info", "/v1/models"):
            refused = await http.get(path, headers=html)
            assert refused.status_code == 401, path
            assert refused.headers["www-authenticate"] == "Bearer"
            assert (await http.get(path, headers=html, auth=("", "wrong"))).status_code == 401
            seen = await http.get(path, headers=html, auth=("anybody", "k"))
            assert seen.status_code == 200 and "somebody" not in seen.text
            assert "mini" in seen.text
        for path in ("/health", "/metrics"):
            assert (await http.get(path)).status_code == 200

    run(scenario, models=models, api_key="k")


@pytest.mark.parametrize(
    ("model_id", "shown"),
    [
        ("org/model", "org/model"), ("model", "model"), (str(Path("/a/b")), "b"), ("./c", "c"),
        ("../d/e", "e"), ("~/f", "f"), ("C:\\x\\y", "y"),
    ],
)  # fmt: skip
def test_a_folder_is_shown_by_its_name(model_id: str, shown: str) -> None:
    assert ModelInfo("m", "embed", {"model_id": model_id}).public_id == shown


def test_a_grpc_port_that_is_in_use_is_named() -> None:
    """It was at the end of a traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = (f"--port={free_port()}", f"--grpc-port={port}", f"--server=127.0.0.1:{port}")
        done = subprocess.run(
            [sys.executable, "-m", "atoll_client.gateway.main", *ports],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode != 0 and f"grpc_port {port} cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr

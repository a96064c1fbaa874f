"""SIGTERM while requests run: what can end does, the rest is answered, and every process ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path

import httpx
import psutil
import pytest
from gateways import GENERATOR
from long_requests import chat, generate, infer_stream, running, wait_until
from serving import ATOLL, Serving, serving

from atoll.launcher import free_ports

# Linux cuts the names of processes.
_STUB = "triton_python_backend_stub"


def short(server: Serving) -> str:
    """A chat that ends by itself, soon."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "model": GENERATOR, "max_tokens": 24}
    answer = httpx.post(f"{server.url()}/v1/chat/completions", json=body, timeout=60)
    return f"{answer.status_code} {answer.json()['choices'][0]['finish_reason']}"


@pytest.mark.slow
def test_every_request_is_answered_before_the_end(tmp_path: Path) -> None:
    """Uvicorn broke requests off, Triton waited for its clients and then ended with models loaded,
    whose clients got no answer. The gateway's gRPC was stopped last: its process was killed before
    its clients heard of it."""
    calls = {
        "short": short,
        "chat": lambda server: chat(server, False),
        "chat stream": lambda server: chat(server, True),
        "gateway grpc": lambda server: infer_stream(server, "gateway-grpc-port"),
        "triton": lambda server: generate(server, False),
        "triton stream": lambda server: generate(server, True),
        "triton grpc": infer_stream,
    }
    ends: dict[str, str] = {}
    with serving(tmp_path, f"--log-file={tmp_path}/server.log", "--exit-timeout=15") as server:

        def ask(name: str) -> None:
            ends[name] = calls[name](server)

        for name in calls:
            threading.Thread(target=ask, args=(name,), daemon=True).start()
        wait_until(lambda: running(server) == len(calls), lambda: f"{running(server)} run; {ends}")
        server.stop(signal.SIGTERM)
        wait_until(lambda: len(ends) == len(calls), lambda: str(ends))
        shown = server.log.read_text()
    assert ends.pop("short").startswith("200"), ends
    for name, end in ends.items():
        assert "shutting down" in end, (name, end)
    log = (tmp_path / "server.log").read_text()
    assert "Exit timeout expired" not in log and "Signal (11)" not in log
    assert "Traceback" not in shown and "graceful shutdown exceeded" not in shown


@pytest.mark.parametrize(("number", "grace_s"), [(signal.SIGTERM, 600), (signal.SIGKILL, 1)])
def test_nothing_is_left_of_a_server_that_is_stopped_as_it_loads(
    number: signal.Signals, grace_s: int, tmp_path: Path
) -> None:
    """SIGTERM took the grace of requests and more, though there can be none: so long that the test
    would not see its end."""
    names = ("http-port", "grpc-port", "metrics-port")
    ports = [f"--{name}={port}" for name, port in zip(names, free_ports(len(names)), strict=True)]
    process = subprocess.Popen(
        [str(ATOLL), "serve", "--port=0", f"--exit-timeout={grace_s}", *ports],
        env={**os.environ, "TMPDIR": str(tmp_path)}, cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    family: list[psutil.Process] = []

    def is_loading() -> bool:
        family[:] = psutil.Process(process.pid).children(recursive=True)
        with contextlib.suppress(psutil.NoSuchProcess):  # helpers that ended meanwhile
            return any(_STUB.startswith(one.name()) for one in family)
        return False

    try:
        wait_until(is_loading, lambda: f"no model loads; {family}")
        # A stub bears the name of its parent, which comes first, until it has begun.
        server = next(one for one in family if one.name() == "tritonserver")
        own_id = next(word[5:] for word in server.cmdline() if word.startswith("--id="))
        process.send_signal(number)
        process.wait(timeout=120)
    finally:
        process.kill()
    wait_until(lambda: not any(map(_is_alive, family)), lambda: str(family))
    assert not [*tmp_path.glob("atoll-*")]
    assert not [*Path("/dev/shm").glob(f"{own_id.replace('-', '_')}*")]


def _is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE

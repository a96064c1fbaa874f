"""SIGTERM while requests run: what can end does, the rest is answered, and every process ends."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import httpx
import pytest
from gateways import GENERATOR
from long_requests import chat, generate, infer_stream, running, wait_until
from serving import Serving, serving


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
    with serving(tmp_path, f"--log-file={tmp_path}/server.log", "--exit-timeout=8") as server:

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

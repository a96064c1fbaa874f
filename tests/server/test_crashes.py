"""A model's process is killed while many requests run: each is answered, the model comes back.

Triton never answers the requests that a process held when it died, and reports the model as ready.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from gateways import EMBEDDER, GENERATOR
from long_requests import chat, generate, infer_stream, running, wait_until
from serving import Serving, serving

from atoll.launcher.stubs import find_stubs


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The two embedded models, as ``atoll serve`` runs them."""
    with serving(tmp_path_factory.mktemp("crash"), "--exit-timeout=3") as server:
        yield server


def kill_process_of(server: Serving, model: str) -> None:
    (pid,) = (stub.pid for stub in find_stubs(server.tritonserver.pid) if stub.model == model)
    os.kill(pid, signal.SIGKILL)


def kill_while_they_run(server: Serving, calls: list[Any]) -> list[str]:
    """The ends of all calls, whose model's process is killed as soon as all of them run."""
    ends: list[str] = []
    for call in calls:
        # Daemons: a call without an answer must not hold the test.
        threading.Thread(target=lambda call=call: ends.append(call()), daemon=True).start()
    wait_until(lambda: running(server) == len(calls), lambda: f"{running(server)} run; {ends}")
    kill_process_of(server, GENERATOR)
    wait_until(lambda: len(ends) == len(calls), lambda: f"{len(ends)} of {len(calls)} answered")
    return ends


def embed(server: Serving) -> int:
    answer = httpx.post(f"{server.url()}/{EMBEDDER}/embed", json={"inputs": "x"}, timeout=60)
    return answer.status_code


def answers_again(server: Serving) -> bool:
    body = {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 3}}
    for _ in range(240):
        answer = httpx.post(f"{server.url()}/{GENERATOR}/generate", json=body, timeout=60)
        if answer.status_code == 200:
            return bool(answer.json()["generated_text"])
        assert answer.status_code in (503, 429), answer.text
        time.sleep(0.25)
    return False


@pytest.mark.slow
def test_behind_the_gateway_only_the_model_is_loaded_again(served: Serving) -> None:
    before = served.tritonserver.pid
    calls = [lambda stream=stream: chat(served, stream) for stream in (False, True) * 8]
    for end in kill_while_they_run(served, calls):
        assert "process of model" in end and "unavailable" in end, end
    assert embed(served) == 200
    assert answers_again(served)
    assert served.tritonserver.pid == before


@pytest.mark.slow
def test_clients_of_the_server_itself_are_answered_too(served: Serving) -> None:
    """They waited for as long as the server ran: it is started again."""
    before = served.tritonserver.pid
    calls = [
        *(lambda stream=stream: generate(served, stream) for stream in (False, True) * 3),
        *[lambda: infer_stream(served)] * 4,
        *(lambda stream=stream: chat(served, stream) for stream in (False, True) * 2),
    ]
    for end in kill_while_they_run(served, calls):
        assert "error" in end or end.startswith("503"), end
    served.wait_for("ready again")
    assert answers_again(served) and embed(served) == 200
    assert served.tritonserver.pid != before and not psutil.pid_exists(before)

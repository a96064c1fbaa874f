"""A model's process is killed while many requests run: each is answered, the model comes back.

Triton never answers the requests that a process held when it died, and reports the model as ready.
A process that dies while it sends must not bring it down.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
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


def process_of(server: Serving, model: str) -> int:
    (pid,) = (
        stub.pid
        for stub in find_stubs(server.tritonserver.pid)
        if stub.model == model and stub.is_running()
    )
    return pid


def wait_until_up(server: Serving) -> None:
    """Whatever a test before this one has left: the server runs, and its models answer."""
    wait_until(server.has_server, server.log.read_text)
    assert answers_again(server) and embed(server) == 200, server.log.read_text()


def kill_while_they_run(server: Serving, calls: list[Any]) -> list[str]:
    """The ends of all calls, whose model's process is killed as soon as all of them run."""
    ends: list[str] = []
    for call in calls:
        # Daemons: a call without an answer must not hold the test.
        threading.Thread(target=lambda call=call: ends.append(call()), daemon=True).start()
    wait_until(lambda: running(server) == len(calls), lambda: f"{running(server)} run; {ends}")
    os.kill(process_of(server, GENERATOR), signal.SIGKILL)
    wait_until(lambda: len(ends) == len(calls), lambda: f"{len(ends)} of {len(calls)} answered")
    return ends


def embed(server: Serving) -> int:
    answer = httpx.post(f"{server.url()}/{EMBEDDER}/embed", json={"inputs": "x"}, timeout=60)
    return answer.status_code


def answers_again(server: Serving) -> bool:
    """Refusals that say when to come again are no answer."""
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
    wait_until_up(served)
    before = served.tritonserver.pid
    calls = [lambda stream=stream: chat(served, stream) for stream in (False, True) * 8]
    for end in kill_while_they_run(served, calls):
        assert "process of model" in end and "unavailable" in end, (
            f"{end}\n{served.log.read_text()}"
        )
    assert embed(served) == 200
    assert answers_again(served)
    assert served.tritonserver.pid == before, served.log.read_text()


@pytest.mark.slow
def test_a_process_that_ends_as_soon_as_it_is_back_is_loaded_again(served: Serving) -> None:
    """Nobody noticed until a canary had waited for it, half a minute later."""
    wait_until_up(served)
    before, said = served.tritonserver.pid, "its process has ended; reloading it"
    num_before = served.log.read_text().count(said)
    killed = process_of(served, GENERATOR)
    os.kill(killed, signal.SIGKILL)

    def is_back() -> bool:
        stubs = find_stubs(before)
        return any(s.model == GENERATOR and s.pid != killed and s.is_running() for s in stubs)

    wait_until(is_back, served.log.read_text)
    assert answers_again(served)
    os.kill(process_of(served, GENERATOR), signal.SIGKILL)
    served.wait_for(said, num_before + 2)
    assert answers_again(served)
    assert served.tritonserver.pid == before, served.log.read_text()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the call has another number")
def test_threads_that_send_leave_no_marks_on_what_the_server_locks(served: Serving) -> None:
    """A process that was killed in the middle of a response aborted the whole server: it was told
    that a mutex's owner had died. The kernel looks for mutexes where a thread's list begins."""
    wait_until_up(served)
    for model in (GENERATOR, EMBEDDER):
        pid = process_of(served, model)
        heads: dict[int, int] = {}
        for thread in Path(f"/proc/{pid}/task").iterdir():
            head, size = ctypes.c_void_p(), ctypes.c_size_t()
            found = ctypes.CDLL(None).syscall(
                274, int(thread.name), ctypes.byref(head), ctypes.byref(size)
            )
            if found == 0:
                heads[int(thread.name)] = head.value or 0
        # The one that takes requests, the one that sends, and the one of the metrics.
        assert Counter(heads.values())[heads[pid]] >= 3, (model, heads)


@pytest.mark.slow
def test_clients_of_the_server_itself_are_answered_too(served: Serving) -> None:
    """They waited for as long as the server ran: it is started again."""
    wait_until_up(served)
    before, num_before = served.tritonserver.pid, served.log.read_text().count("ready again")
    calls = [
        *(lambda stream=stream: generate(served, stream) for stream in (False, True) * 3),
        *[lambda: infer_stream(served)] * 4,
        *(lambda stream=stream: chat(served, stream) for stream in (False, True) * 2),
    ]
    for end in kill_while_they_run(served, calls):
        assert "error" in end or end.startswith("503"), end
    served.wait_for("ready again", num_before + 1)
    assert answers_again(served) and embed(served) == 200
    assert served.tritonserver.pid != before and not psutil.pid_exists(before)

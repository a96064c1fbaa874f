"""A model's process is killed while many requests run: each is answered, the model comes back.

Triton never answers the requests that a process held when it died, and reports the model as ready.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from gateways import EMBEDDER, GENERATOR
from serving import Serving, serving

from atoll.launcher.stubs import find_stubs

LONG = {"max_tokens": 4000, "ignore_eos": True, "temperature": 0}
# The model is loaded again within it, on a machine that does other things, too.
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The two embedded models, as ``atoll serve`` runs them."""
    with serving(tmp_path_factory.mktemp("crash"), "--exit-timeout=3") as server:
        yield server


def chat(server: Serving, stream: bool) -> str:
    """How a chat through the gateway ended."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "model": GENERATOR, **LONG}
    url = f"{server.url()}/v1/chat/completions"
    if not stream:
        answer = httpx.post(url, json=body, timeout=120)
        return f"{answer.status_code} {answer.text}"
    with httpx.stream("POST", url, json={**body, "stream": True}, timeout=120) as events:
        return [line for line in events.iter_lines() if line][-1]


def generate(server: Serving, stream: bool) -> str:
    """How a request to Triton's own HTTP port ended."""
    kind = "generate_stream" if stream else "generate"
    url = f"{server.url('http-port')}/v2/models/{GENERATOR}/{kind}"
    body = {"text_input": "Hi", "parameters": LONG}
    try:
        with httpx.stream("POST", url, json=body, timeout=120) as answer:
            return f"{answer.status_code} {answer.read().decode()}"
    except httpx.TransportError as error:
        return f"error: {error!r}"


def infer_stream(server: Serving) -> str:
    """How a stream of Triton's own gRPC port ended."""
    ended: Future[str] = Future()

    def see(result: Any, error: Any) -> None:
        if error is not None and not ended.done():
            ended.set_result(f"error: {error}")

    client = triton.InferenceServerClient(f"127.0.0.1:{server.ports['grpc-port']}")
    client.start_stream(see)
    inputs = []
    for name, value in (("text_input", "Hi"), ("sampling_parameters", json.dumps(LONG))):
        inputs.append(triton.InferInput(name, [1], "BYTES"))
        inputs[-1].set_data_from_numpy(np.array([value.encode()], dtype=object))
    stream = triton.InferInput("stream", [1], "BOOL")
    stream.set_data_from_numpy(np.array([True]))
    client.async_stream_infer(GENERATOR, [*inputs, stream])
    try:
        return ended.result(timeout=120)
    finally:
        client.stop_stream(cancel_requests=True)
        client.close()


def kill_process_of(server: Serving, model: str) -> None:
    (pid,) = (stub.pid for stub in find_stubs(server.tritonserver.pid) if stub.model == model)
    os.kill(pid, signal.SIGKILL)


def running(server: Serving) -> float:
    """Requests that the generator holds."""
    page = httpx.get(f"{server.url('metrics-port')}/metrics").text
    name = f'atoll_requests_running{{model="{GENERATOR}"'
    lines = [line for line in page.splitlines() if line.startswith(name)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


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


def wait_until(is_so: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


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

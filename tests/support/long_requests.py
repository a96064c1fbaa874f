"""Requests that run until something ends them, in the ways in which people ask."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton
from gateways import GENERATOR
from serving import Serving

LONG = {"max_tokens": 4000, "ignore_eos": True, "temperature": 0}
# A model is loaded again within it, on a machine that does other things, too.
PATIENCE_S = 60.0


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


def infer_stream(server: Serving, port: str = "grpc-port") -> str:
    """How a stream of Triton's own gRPC port ended, or of the gateway's."""
    ended: Future[str] = Future()

    def see(result: Any, error: Any) -> None:
        if error is not None and not ended.done():
            ended.set_result(f"error: {error}")

    client = triton.InferenceServerClient(f"127.0.0.1:{server.ports[port]}")
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


def running(server: Serving) -> float:
    """Requests that the generator holds."""
    page = httpx.get(f"{server.url('metrics-port')}/metrics", timeout=60).text
    name = f'atoll_requests_running{{model="{GENERATOR}"'
    lines = [line for line in page.splitlines() if line.startswith(name)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def wait_until(is_so: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)

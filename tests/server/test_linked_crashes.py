"""A process ends on which others wait: whoever asked any of them is answered, and all come back.

Triton answers neither what the process held nor the requests that other models made to it, and
those models waited for ever: an ensemble, retrieve-then-rerank, conversations.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import linked_repository as linked
import numpy as np
import pytest
import tritonclient.grpc as triton
from linked_repository import HOLD
from long_requests import wait_until
from serving import Serving, serving

from atoll.launcher.stubs import find_stubs

# What is asked, what holds the request, what ends.
CASES = [
    (linked.SESSION, linked.GENERATOR, linked.GENERATOR),
    (linked.SESSION, linked.GENERATOR, linked.SESSION),
    (linked.ENSEMBLE, linked.EMBEDDER, linked.EMBEDDER),
    (linked.SEARCH, linked.EMBEDDER, linked.EMBEDDER),
    (linked.OTHER, linked.OTHER, linked.OTHER),
    (linked.OTHER_STREAM, linked.OTHER_STREAM, linked.OTHER_STREAM),
]
NUM_CLIENTS = 3
_LIMIT = '{"max_tokens": 3}'


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Behind a gateway, whose clients hold no connection to the server itself."""
    folder = tmp_path_factory.mktemp("linked")
    with serving(folder, "--repository", str(linked.write_linked(folder))) as server:
        yield server


def texts(name: str, shape: list[int], *values: str) -> triton.InferInput:
    found = triton.InferInput(name, shape, "BYTES")
    found.set_data_from_numpy(np.array([v.encode() for v in values], dtype=object).reshape(shape))
    return found


def inputs(model: str, text: str) -> list[triton.InferInput]:
    if model == linked.SESSION:
        return [texts("text_input", [1], text), texts("sampling_parameters", [1], _LIMIT)]
    if model == linked.SEARCH:
        return [texts("query", [1], text), texts("text_input", [2, 1], "a document", "b")]
    if model == linked.ENSEMBLE:
        return [texts("text_input", [1, 1], text)]
    return [texts("IN", [1], text)]


class Clients:
    """Requests through the gateway; ``ends`` has all that each was told: "" or an error."""

    def __init__(self, server: Serving, model: str, text: str, count: int) -> None:
        self.ends: list[list[str]] = [[] for _ in range(count)]
        self._address = f"127.0.0.1:{server.ports['gateway-grpc-port']}"
        for number, told in enumerate(self.ends):
            threading.Thread(
                target=self._ask, args=(model, text, number, told), daemon=True
            ).start()

    def _ask(self, model: str, text: str, number: int, told: list[str]) -> None:
        with triton.InferenceServerClient(self._address) as client:
            if model not in (linked.SESSION, linked.OTHER_STREAM):
                try:
                    client.infer(model, inputs(model, text))
                except triton.InferenceServerException as error:
                    told.append(str(error))
                else:
                    told.append("")
                return
            ended = threading.Event()

            def see(result: triton.InferResult | None, error: Exception | None) -> None:
                if error is not None:
                    told.append(str(error))
                elif result is not None:
                    final = result.get_response().parameters["triton_final_response"]
                    if not final.bool_param:
                        return
                    told.append("")
                ended.set()

            is_session = model == linked.SESSION
            options = {"sequence_id": number + 1, "sequence_start": True} if is_session else {}
            client.start_stream(see)
            client.async_stream_infer(
                model, inputs(model, text), enable_empty_final_response=True, **options
            )
            ended.wait()
            client.stop_stream()

    @property
    def have_ended(self) -> bool:
        return all(self.ends)


def ask(server: Serving, model: str) -> str:
    """ "" or the error."""
    clients = Clients(server, model, "fine", 1)
    wait_until(lambda: clients.have_ended, lambda: f"{model} does not answer")
    ((end,),) = clients.ends
    return end


def comes_back(server: Serving, model: str) -> None:
    """Says that it is not there now, not that there is no such model."""

    def is_back() -> bool:
        end = ask(server, model)
        assert "NOT_FOUND" not in end and "is not found" not in end, end
        return not end

    wait_until(is_back, lambda: f"{model} does not come back")


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "holder", "ended"), CASES)
def test_all_who_wait_are_answered(served: Serving, asked: str, holder: str, ended: str) -> None:
    before = served.tritonserver.pid
    num_before = linked.num_held(served.log.parent, holder)
    clients = Clients(served, asked, HOLD, NUM_CLIENTS)
    # It works on one request after another.
    num_held = 1 if asked == linked.SEARCH else NUM_CLIENTS
    wait_until(
        lambda: linked.num_held(served.log.parent, holder) == num_before + num_held,
        lambda: str(clients.ends),
    )
    (pid,) = (stub.pid for stub in find_stubs(before) if stub.model == ended)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: clients.have_ended, lambda: str(clients.ends))
    assert all("has ended" in end for (end,) in clients.ends), clients.ends
    for model in {asked for asked, _, _ in CASES}:
        comes_back(served, model)
    assert served.tritonserver.pid == before

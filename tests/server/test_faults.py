"""Faults under load, through a real server: everyone is answered, and the model comes back."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from fault_repository import GENERATOR, SESSION, record_exit_codes, write_faulty

from atoll.launcher import ServerProcess

NUM_CLIENTS = 12
PATIENCE_S = 60.0


def tensor(name: str, value: str | bool) -> Any:
    kind = "BOOL" if isinstance(value, bool) else "BYTES"
    found = triton.InferInput(name, [1], kind)
    item = value if isinstance(value, bool) else value.encode()
    found.set_data_from_numpy(np.array([item], dtype=bool if kind == "BOOL" else object))
    return found


class Clients:
    """Requests on one gRPC stream each; ``ends`` has one entry for each: "" or the error."""

    def __init__(
        self, server: ServerProcess, count: int, model: str = GENERATOR, **options: Any
    ) -> None:
        self._open = []
        for number in range(count):
            client = triton.InferenceServerClient(server.grpc_url)
            answers: queue.Queue[Any] = queue.Queue()

            def told(result: Any, error: Any, answers: queue.Queue[Any] = answers) -> None:
                answers.put((result, error))

            client.start_stream(told)
            sampling = json.dumps({"ignore_eos": True, **options})
            inputs = [
                tensor("text_input", f"client {number}"), tensor("stream", number % 2 == 0),
                tensor("sampling_parameters", sampling),
            ]  # fmt: skip
            is_session = model == SESSION
            sequence = {"sequence_id": number + 1, "sequence_start": True} if is_session else {}
            client.async_stream_infer(model, inputs, enable_empty_final_response=True, **sequence)
            self._open.append((client, answers))

    def wait_begun(self) -> None:
        """Until the first stream has a token."""
        answers = self._open[0][1]
        result, error = answers.get(timeout=PATIENCE_S)
        assert error is None
        answers.put((result, error))

    def ends(self) -> list[str]:
        found = [self._end(answers) for _, answers in self._open]
        for client, _ in self._open:
            client.stop_stream()
            client.close()
        return found

    @staticmethod
    def _end(answers: queue.Queue[Any]) -> str:
        while True:
            result, error = answers.get(timeout=PATIENCE_S)
            if error is not None:
                return str(error)
            if result.get_response().parameters["triton_final_response"].bool_param:
                return ""


def works(server: ServerProcess) -> bool:
    return Clients(server, 1, max_tokens=4).ends() == [""]


def test_a_step_that_fails_and_an_engine_that_dies(
    start_server: Callable[..., ServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's thread could die: the model said that it was ready, and answered nobody.

    Turns of conversations that had begun their answers were told nothing, and never ended. And a
    stub ended with a segmentation fault: its metrics were freed after its shared memory.
    """
    codes, faults = tmp_path / "codes", tmp_path / "faults"
    record_exit_codes(monkeypatch, codes)
    repository = write_faulty(tmp_path, slowness_s=0.01)
    names = (GENERATOR, SESSION)
    server = start_server(repository=repository, names=names, watch_interval_s=0.5)
    codes.unlink(missing_ok=True)  # Triton asks the stub about itself first

    clients = Clients(server, NUM_CLIENTS, max_tokens=300)
    turns = Clients(server, NUM_CLIENTS, SESSION, max_tokens=300)
    clients.wait_begun()
    turns.wait_begun()
    (faults / "step").touch()
    # Those that had not arrived, or had no part in the step, are answered.
    failed = [end for end in clients.ends() if end]
    failed_turns = [end for end in turns.ends() if end]
    assert failed and failed_turns
    failed += failed_turns
    assert all("step failed: RuntimeError: a fault of the test" in end for end in failed)
    assert works(server) and server.num_reloads == 0

    clients = Clients(server, NUM_CLIENTS, max_tokens=300)
    clients.wait_begun()
    (faults / "thread").touch()
    ends = clients.ends()
    assert any("is not healthy" in end for end in ends)
    # The model may be loaded again before the last one has arrived.
    assert all("is not healthy" in end or "no available versions" in end for end in ends), ends
    deadline = time.monotonic() + PATIENCE_S
    while server.num_reloads == 0:
        assert time.monotonic() < deadline, "the watchdog did not load the model again"
        time.sleep(0.1)
    assert works(server)
    while not codes.exists():
        assert time.monotonic() < deadline, "the old stub has not ended"
        time.sleep(0.1)
    ended_by_signals = [code for code in codes.read_text().split() if int(code) > 128]
    assert not ended_by_signals

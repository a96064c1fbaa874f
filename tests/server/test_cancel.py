"""Requests that nobody waits for any more, and errors that say what they are, through a server."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from documented import run_example
from long_requests import wait_until
from measured import wait_for

from atoll.catalogue import Entry, render
from atoll.launcher import ServerProcess

GENERATOR, EMBEDDER = "smollm2-135m-instruct", "all-minilm-l6-v2"
# One thread asks after the client all the time, another one answers.
ASKING = """
import threading
import numpy as np
from atoll.serving.triton.response_sender import TritonResponseSender
from atoll.serving.triton.tensors import FINAL

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = TritonResponseSender(request)
            has_ended = threading.Event()
            for work in (self.ask, self.answer):
                threading.Thread(target=work, args=(sender, has_ended), daemon=True).start()

    def ask(self, sender, has_ended):
        while not has_ended.is_set():
            sender.is_cancelled()

    def answer(self, sender, has_ended):
        sender.send({"text_output": np.array([b"x"], dtype=object)}, FINAL)
        for _ in range(20):
            sender.is_cancelled()
        has_ended.set()
"""


class Talk:
    """A gRPC stream; ``next`` is its next response or error."""

    def __init__(self, server: ServerProcess) -> None:
        self.client = triton.InferenceServerClient(server.grpc_url)
        self.answers: queue.Queue[Any] = queue.Queue()
        self.client.start_stream(lambda result, error: self.answers.put(error or result))

    def ask(
        self, texts: dict[str, str], model: str = GENERATOR, request_id: str = "", **given: Any
    ) -> None:
        inputs = [_texts(name, [text], batched=False) for name, text in texts.items()]
        self.client.async_stream_infer(model, inputs, request_id=request_id, parameters=given)

    def next(self) -> Any:
        return self.answers.get(timeout=60)

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *reason: object) -> None:
        self.client.stop_stream()
        self.client.close()


def _texts(name: str, texts: list[str], batched: bool) -> Any:
    array = np.array([text.encode() for text in texts], dtype=object)
    array = array.reshape(-1, 1) if batched else array
    tensor = triton.InferInput(name, list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array)
    return tensor


def _control(request_id: str) -> str:
    return json.dumps({"op": "cancel", "request_id": request_id})


def test_a_generation_is_cancelled_by_its_id(embedded_server: ServerProcess) -> None:
    sampling = json.dumps({"max_tokens": 4000, "ignore_eos": True})
    with Talk(embedded_server) as talk, Talk(embedded_server) as other:
        talk.ask({"text_input": "Count:", "sampling_parameters": sampling}, request_id="one-1")
        wait_for(embedded_server, GENERATOR, "atoll_kv_blocks_used", lambda blocks: blocks > 0)

        def is_cancelled() -> bool:
            other.ask({"text_input": ""}, control=_control("one-1"))
            return bool(json.loads(other.next().as_numpy("control")[0]))

        # It may not have arrived yet.
        wait_until(is_cancelled, lambda: "it did not arrive")
        error = talk.next()
        assert "cancelled" in str(error)
        # Not only the client is told: nothing is generated for nobody.
        wait_for(embedded_server, GENERATOR, "atoll_kv_blocks_used", lambda blocks: blocks == 0)
        other.ask({"text_input": ""}, control=_control("one-1"))
        assert json.loads(other.next().as_numpy("control")[0]) is False


def test_the_documented_example_runs(
    embedded_server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("serve.md", "Cancelling, and errors of streams", embedded_server.grpc_url)
    assert capsys.readouterr().out == "False\n"


def test_embeddings_are_cancelled_by_their_id(embedded_server: ServerProcess) -> None:
    found: queue.Queue[Any] = queue.Queue()
    texts = [_texts("text_input", ["word " * 250] * 64, batched=True)]
    with triton.InferenceServerClient(embedded_server.grpc_url) as client:
        for number in range(3):
            client.async_infer(
                EMBEDDER, texts, lambda result, error: found.put(error or result),
                request_id=f"many-{number}",
            )  # fmt: skip
        nothing = [_texts("text_input", [""], batched=True)]
        is_known = False
        while not is_known:  # the question may overtake the request
            assert found.qsize() < 3, "all were answered before one was known"
            answer = client.infer(EMBEDDER, nothing, parameters={"control": _control("many-2")})
            is_known = json.loads(answer.as_numpy("control")[0, 0])
        answers = [found.get(timeout=120) for _ in range(3)]
    errors = [one for one in answers if isinstance(one, Exception)]
    assert len(errors) == 1 and "the client has left" in str(errors[0])


def test_an_error_in_a_stream_can_say_what_it_is(embedded_server: ServerProcess) -> None:
    wrong = {"text_input": "a", "sampling_parameters": json.dumps({"temperature": -1})}
    with Talk(embedded_server) as talk:
        talk.ask(wrong)
        plain = str(talk.next())
        talk.ask(wrong, json_errors=True)
        found = json.loads(talk.next().message())
        talk.ask({"text_input": ""}, json_errors=True, control='{"op": "nix"}')
        control = json.loads(talk.next().message())
    assert "temperature" in plain and "error_type" not in plain
    assert found["error_type"] == "validation" and "temperature is -1" in found["error"]
    assert control["error_type"] == "validation" and "op is 'nix'" in control["error"]


def test_asking_after_a_client_that_has_its_answer_is_harmless(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    """Triton itself does not survive it, within some ten requests."""
    entry = Entry("asking", "x", "generate", "bert")
    folder = tmp_path / "models" / "asking"
    (folder / "1").mkdir(parents=True)
    config = render(entry)["config.pbtxt"]
    # No model_id: there is no checkpoint to fetch.
    (folder / "config.pbtxt").write_text(config[: config.index("\nparameters {")])
    (folder / "1" / "model.py").write_text(ASKING)
    server = start_server(repository=tmp_path / "models")
    with Talk(server) as talk:
        for _ in range(300):
            talk.ask({"text_input": "a"}, model="asking")
        assert all(talk.next().as_numpy("text_output")[0] == b"x" for _ in range(300))

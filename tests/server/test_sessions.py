"""Conversations by sequence batching through a real server: what is kept, computed again, freed."""

from __future__ import annotations

import json
import queue
import urllib.request
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from documented import run_example
from measured import settled, wait_for
from tritonclient.utils import InferenceServerException

from atoll.launcher import ServerProcess
from atoll_client import Client

MODEL = "smollm2-135m-instruct"
COUNT = 12
HITS = "atoll_prefix_hit_tokens_total"
TURNS = ("Once upon a time there was a king who lived in", " The queen, however,", " And so")


class Talk:
    """Turns over one gRPC stream."""

    def __init__(self, server: ServerProcess, sequence_id: int | str, model: str = MODEL) -> None:
        self.client = triton.InferenceServerClient(server.grpc_url)
        self.model, self.sequence_id = model, sequence_id
        self.answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))
        self.has_begun = False

    def ask(self, *, end: bool = False, start: bool | None = None, **inputs: Any) -> None:
        """Sends one more turn; ``options`` are generation options, the rest tensors."""
        options = {"max_tokens": COUNT, **inputs.pop("options", {})}
        parameters = inputs.pop("parameters", None)
        inputs = {"stream": True, "return_num_input_tokens": True, **inputs}
        tensors = [_tensor("sampling_parameters", json.dumps(options))]
        tensors += [_tensor(name, value) for name, value in inputs.items()]
        is_first = not self.has_begun if start is None else start
        self.client.async_stream_infer(
            f"{self.model}-session", tensors, sequence_id=self.sequence_id,
            sequence_start=is_first, sequence_end=end, enable_empty_final_response=True,
            parameters=parameters,
        )  # fmt: skip
        self.has_begun = True

    def collect(self) -> tuple[str, int, int]:
        """(text, prompt tokens, responses) of one turn."""
        text, count = "", 0
        while True:
            result, error = self.answers.get(timeout=60)
            if error is not None:
                raise error
            text += result.as_numpy("text_output")[0].decode()
            count += 1
            if result.get_response().parameters["triton_final_response"].bool_param:
                found = result.as_numpy("num_input_tokens")
                return text, 0 if found is None else int(found[0]), count

    def say(self, text: str, **options: Any) -> tuple[str, int, int]:
        self.ask(text_input=text, **options)
        return self.collect()

    def close(self, cancel: bool = False) -> None:
        self.client.stop_stream(cancel_requests=cancel)
        self.client.close()


def _tensor(name: str, value: Any) -> Any:
    kind = "BOOL" if isinstance(value, bool) else "BYTES"
    array = np.array([value if kind == "BOOL" else value.encode()])
    tensor = triton.InferInput(name, [1], kind)
    tensor.set_data_from_numpy(array if kind == "BOOL" else array.astype(object))
    return tensor


def wait_until_none(server: ServerProcess, name: str) -> None:
    """Until a gauge of the generator's is 0."""
    wait_for(server, MODEL, name, lambda value: value == 0)


def alone(server: ServerProcess, body: dict[str, Any]) -> str:
    url = f"{server.http_url}/v2/models/{MODEL}/generate"
    request = urllib.request.Request(url, json.dumps({"max_tokens": COUNT, **body}).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(json.loads(response.read())["text_output"])


def test_turns_compute_only_what_is_new(embedded_server: ServerProcess) -> None:
    """Each answer is the one to the whole text; of that, the cache had all but the last token."""
    talk, said = Talk(embedded_server, 7), ""
    length = 0
    for turn in TURNS:
        before = settled(embedded_server, MODEL)
        answer, num_tokens, responses = talk.say(turn)
        saved = settled(embedded_server, MODEL).get(HITS, 0.0) - before.get(HITS, 0.0)
        if said:
            # The last token of an answer is known but has not been through the model.
            assert saved == length + COUNT - 1
            assert num_tokens - saved <= 8
        assert responses > 1
        said += turn
        assert answer == alone(embedded_server, {"text_input": said})
        said, length = said + answer, num_tokens
    assert settled(embedded_server, MODEL)["atoll_conversations"] == 1
    talk.ask(end=True)
    assert talk.collect()[0] == ""
    wait_until_none(embedded_server, "atoll_conversations")
    talk.ask(text_input="More", start=False)
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        talk.collect()
    talk.close()
    wait_until_none(embedded_server, "atoll_kv_blocks_used")


def test_chats_go_on(embedded_server: ServerProcess) -> None:
    """Messages are added to the chat; the answer is the one to all of them."""
    asked = [[{"role": "user", "content": text}] for text in ("What is an atoll?", "Name one.")]
    talk = Talk(embedded_server, "a user's tab")
    chat: list[dict[str, str]] = []
    for index, messages in enumerate(asked):
        talk.ask(messages=json.dumps(messages), end=index == 1, stream=False)
        answer, _, responses = talk.collect()
        chat += messages
        assert answer == alone(embedded_server, {"messages": json.dumps(chat)})
        assert responses == 1
        chat.append({"role": "assistant", "content": answer})
    talk.close()
    wait_until_none(embedded_server, "atoll_conversations")


def test_refused_turns_change_nothing(embedded_server: ServerProcess) -> None:
    talk = Talk(embedded_server, 8)
    first, _, _ = talk.say(TURNS[0])
    bad: dict[str, dict[str, Any]] = {
        "temperature is 'hot'": {"text_input": "x", "options": {"temperature": "hot"}},
        "the conversation began with text_input": {"messages": '[{"role": "user"}]'},
        "text_input is empty": {"text_input": ""},
        "control is set": {"text_input": "x", "parameters": {"control": '{"op": "info"}'}},
        "unknown parameter 'temprature'": {"text_input": "x", "parameters": {"temprature": 1}},
    }
    for message, turn in bad.items():
        talk.ask(**turn)
        with pytest.raises(InferenceServerException, match=message):
            talk.collect()
    second, _, _ = talk.say(TURNS[1], end=True)
    assert second == alone(embedded_server, {"text_input": TURNS[0] + first + TURNS[1]})
    talk.close()


def test_turns_in_a_row_are_answered_in_order(embedded_server: ServerProcess) -> None:
    """Sent without waiting: the second turn follows the first's answer; START begins anew."""
    talk = Talk(embedded_server, 9)
    for turn in TURNS[:2]:
        talk.ask(text_input=turn)
    (first, _, _), (second, _, _) = talk.collect(), talk.collect()
    assert second == alone(embedded_server, {"text_input": TURNS[0] + first + TURNS[1]})
    again, _, _ = talk.say(TURNS[0], start=True, end=True)
    assert again == first
    talk.close()
    wait_until_none(embedded_server, "atoll_conversations")


def test_leaving_ends_the_turn(embedded_server: ServerProcess) -> None:
    talk = Talk(embedded_server, 10)
    talk.ask(text_input="Count:", options={"max_tokens": 2000, "ignore_eos": True})
    talk.answers.get(timeout=60)
    wait_for(embedded_server, MODEL, "atoll_kv_blocks_used", lambda blocks: blocks > 0)
    talk.close(cancel=True)
    wait_until_none(embedded_server, "atoll_kv_blocks_used")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_client_s_conversation_finds_its_blocks(
    embedded_server: ServerProcess, protocol: str
) -> None:
    """It sends all that was said; the full blocks of the turn before are in the cache."""
    url = embedded_server.grpc_url if protocol == "grpc" else embedded_server.http_url
    with Client(url) as client:
        talk = client.conversation(MODEL, system=f"You know all atolls, by {protocol}.")
        first = talk.say("Name three islands.", max_tokens=COUNT)
        before = settled(embedded_server, MODEL)
        second = talk.say("And one more.", max_tokens=COUNT)
        found = settled(embedded_server, MODEL)[HITS] - before.get(HITS, 0.0)
    said = [message["content"] for message in talk.messages]
    assert said[2::2] == [first, second]
    asked = {"messages": json.dumps(talk.messages[:-1])}
    assert second == alone(embedded_server, asked)
    assert found >= 32


def test_the_documented_example_runs(
    embedded_server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("serve.md", "Conversations", embedded_server.grpc_url)
    assert len(capsys.readouterr().out.splitlines()) >= 2
    wait_until_none(embedded_server, "atoll_conversations")

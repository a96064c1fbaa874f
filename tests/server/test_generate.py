"""SmolLM2 through a real server: answers, streams, and what happens when things go wrong."""

from __future__ import annotations

import json
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import tritonclient.grpc as triton
from grpc_streams import MODEL, Stream, tensor_of
from measured import metrics, settled, wait_for

from atoll.launcher import ServerProcess
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve

COUNT = 64
PROMPTS = (
    "The quick brown fox", "Once upon a time there was", "def fibonacci(n):", "In 1969,",
    "The meaning of life is", "Water boils at", "My favourite colour is", "Dear Sir or Madam,",
)  # fmt: skip
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(resolve("HuggingFaceTB/SmolLM2-135M-Instruct"))


@pytest.fixture(scope="module")
def reference() -> Any:
    """transformers' model."""
    from transformers import AutoModelForCausalLM

    folder = resolve("HuggingFaceTB/SmolLM2-135M-Instruct")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.inference_mode()
def assert_greedy(reference: Any, prompt_ids: list[int], ids: list[int], eos: int = 2) -> None:
    """Every token is the one transformers finds most likely after the prompt and those before it.

    By induction this is its greedy answer, at the price of one forward pass.
    """
    logits = reference(torch.tensor([prompt_ids + ids])).logits[0, len(prompt_ids) - 1 : -1]
    assert logits.argmax(-1).tolist() == ids
    assert len(ids) == COUNT or ids[-1] == eos


def post(server: ServerProcess, body: dict[str, Any], route: str = "generate") -> dict[str, Any]:
    """The JSON answer of Triton's generate extension; errors too."""
    url = f"{server.http_url}/v2/models/{MODEL}/{route}"
    request = urllib.request.Request(url, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            found: dict[str, Any] = json.loads(response.read())
    except urllib.error.HTTPError as error:
        found = {"status": error.code, **json.loads(error.read())}
    return found


def sse(server: ServerProcess, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of generate_stream."""
    url = f"{server.http_url}/v2/models/{MODEL}/generate_stream"
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=120) as response:
        for line in response:
            if line.startswith(b"data:"):
                yield json.loads(line[5:])


def test_chat_template_and_ids(embedded_server: ServerProcess) -> None:
    answer = post(
        embedded_server,
        {"messages": json.dumps(QUESTION), "return_token_ids": True,
         "return_num_input_tokens": True, "return_num_output_tokens": True,
         "return_finish_reason": True},
    )  # fmt: skip
    assert answer["token_ids"] == [504, 3575, 282, 4649, 314, 7042, 30, 2]
    assert answer["text_output"] == "The capital of France is Paris."
    assert (answer["num_input_tokens"], answer["num_output_tokens"]) == (37, 8)
    assert answer["finish_reason"] == "stop"


def test_greedy_equals_transformers(
    embedded_server: ServerProcess, reference: Any, tokenizer: Tokenizer
) -> None:
    """Eight prompts, alone and at once, streamed and not."""
    alone = {}
    for index, prompt in enumerate(PROMPTS):
        stream = Stream(embedded_server)
        stream.ask(prompt, stream=index % 2 == 0, max_tokens=COUNT)
        texts, ids, _ = stream.collect()
        stream.close()
        assert_greedy(reference, tokenizer.encode(prompt), ids)
        assert "".join(texts) == tokenizer.decode(ids)
        assert (len(texts) > 1) == (index % 2 == 0)
        alone[prompt] = ids
    for is_stream in (True, False):
        streams = [Stream(embedded_server) for _ in PROMPTS]
        for stream, prompt in zip(streams, PROMPTS, strict=True):
            stream.ask(prompt, stream=is_stream, max_tokens=COUNT)
        for stream, prompt in zip(streams, PROMPTS, strict=True):
            texts, ids, _ = stream.collect()
            stream.close()
            assert ids == alone[prompt]
            assert "".join(texts) == tokenizer.decode(ids)


@pytest.mark.parametrize("text", ["Emoji: 🙂🙃🚀", "你好，世界！今天", "Ελληνικά και русский"])
def test_streams_never_break_characters(embedded_server: ServerProcess, text: str) -> None:
    options = {"temperature": 1.3, "seed": 7, "max_tokens": 40}
    plain = post(embedded_server, {"text_input": text, **options})["text_output"]
    chunks = [e["text_output"] for e in sse(embedded_server, {
        "text_input": text, "stream": True, **options,
    })]  # fmt: skip
    assert "".join(chunks) == plain
    assert all("\ufffd" not in chunk for chunk in chunks[:-1])


def test_32_streams_join_and_equal_their_solo_results(embedded_server: ServerProcess) -> None:
    """Later requests join running ones: first tokens come before earlier answers are finished."""
    lengths = [8 + 3 * i for i in range(16)] * 2
    prompts = [f"Item number {i}: the" for i in range(32)]
    streams = [Stream(embedded_server) for _ in prompts]
    for stream, prompt, length in zip(streams, prompts, lengths, strict=True):
        stream.ask(prompt, max_tokens=length, ignore_eos=True)
        time.sleep(0.02)
    answers = [stream.collect() for stream in streams]
    for stream in streams:
        stream.close()
    firsts = [times[0] for _, _, times in answers]
    last_of_first_long = answers[15][2][-1]
    assert sum(first < last_of_first_long for first in firsts[16:]) >= 8
    assert [len(ids) for _, ids, _ in answers] == lengths
    for i in (0, 9, 18, 31):
        solo = post(embedded_server, {
            "text_input": prompts[i], "max_tokens": lengths[i], "ignore_eos": True,
            "return_token_ids": True,
        })  # fmt: skip
        assert solo["token_ids"] == answers[i][1]


def test_cancelling_a_stream_frees_its_blocks(embedded_server: ServerProcess) -> None:
    stream = Stream(embedded_server)
    stream.ask("Tell me everything:", max_tokens=2000, ignore_eos=True)
    stream.answers.get(timeout=60)
    wait_for(embedded_server, MODEL, "atoll_kv_blocks_used", lambda blocks: blocks > 0)
    before = metrics(embedded_server, MODEL)
    stream.close(cancel=True)
    wait_for(embedded_server, MODEL, "atoll_kv_blocks_used", lambda blocks: blocks == 0)
    after = settled(embedded_server, MODEL)
    # A few steps pass before the client's cancellation reaches the server.
    assert after["atoll_engine_steps_total"] - before["atoll_engine_steps_total"] <= 20 + 10
    name = "atoll_requests_cancelled_total"
    assert after[name] - before.get(name, 0) == 1


def test_leaving_an_sse_stream_frees_its_blocks(embedded_server: ServerProcess) -> None:
    events = sse(embedded_server, {
        "text_input": "Count:", "stream": True, "max_tokens": 2000, "ignore_eos": True,
    })  # fmt: skip
    next(events)
    wait_for(embedded_server, MODEL, "atoll_kv_blocks_used", lambda blocks: blocks > 0)
    events.close()  # type: ignore[attr-defined]
    wait_for(embedded_server, MODEL, "atoll_kv_blocks_used", lambda blocks: blocks == 0)


BAD = {
    "empty text": ({"text_input": ""}, "text_input is empty"),
    "no text": ({"max_tokens": 3}, "text_input is empty"),
    "no tokens": ({"text_input": "x", "max_tokens": 0}, "max_tokens is 0; the least allowed is 1"),
    "beyond the context": (
        {"text_input": "x", "max_tokens": 8192},
        "text_input has 1 tokens and max_tokens is 8192: together they exceed max_total_tokens, "
        "8192",
    ),
    "unknown": ({"text_input": "x", "temprature": 1}, "unknown parameter 'temprature'"),
    "wrong type": ({"text_input": "x", "temperature": "hot"}, "temperature is 'hot'"),
    "out of range": ({"text_input": "x", "top_p": 1.5}, "top_p is 1.5; the most allowed is 1"),
    "bad json": ({"text_input": "x", "sampling_parameters": "{"}, "not valid JSON"),
    "unknown option": (
        {"text_input": "x", "sampling_parameters": '{"beam_width": 3}'}, "'beam_width'",
    ),
    "two prompts": (
        {"text_input": "x", "messages": json.dumps(QUESTION)}, "text_input and messages are set",
    ),
    "bad messages": ({"messages": '[{"content": "x"}]'}, "messages[0]"),
    "too many stops": ({"text_input": "x", "stop": ["a", "b", "c", "d", "e"]}, "stop has 5"),
    "too long": ({"text_input": "word " * 9000}, "max_input_tokens is 8191"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused_by_name(embedded_server: ServerProcess, name: str) -> None:
    body, message = BAD[name]
    answer = post(embedded_server, body)
    assert answer.get("status") == 400, answer
    assert message in answer["error"]
    assert post(embedded_server, {"text_input": "Hi", "max_tokens": 1})["text_output"]


def test_invalid_utf8_is_refused(embedded_server: ServerProcess) -> None:
    client = triton.InferenceServerClient(embedded_server.grpc_url)
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error))
    client.async_stream_infer(MODEL, [tensor_of("text_input", [b"caf\xff"])])
    error = answers.get(timeout=60)
    assert "text_input[0] is not valid UTF-8 at byte 3" in str(error)
    client.stop_stream()
    client.close()


def test_stop_strings_span_tokens(embedded_server: ServerProcess) -> None:
    body = {"messages": json.dumps(QUESTION), "return_finish_reason": True, "stop": ["France is P"]}
    answer = post(embedded_server, body)
    assert answer["text_output"] == "The capital of "
    assert (answer["finish_reason"], answer["stop_reason"]) == ("stop", "France is P")
    kept = post(embedded_server, {**body, "include_stop_str_in_output": True})
    assert kept["text_output"] == "The capital of France is P"


def test_seeds_repeat_and_differ(embedded_server: ServerProcess) -> None:
    def ask(seed: int) -> str:
        body = {"text_input": "Once", "temperature": 1.0, "seed": seed, "max_tokens": 12}
        return str(post(embedded_server, body)["text_output"])

    first = ask(1)
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(2, 6)]
    for thread in threads:
        thread.start()
    assert ask(1) == first
    for thread in threads:
        thread.join()
    assert len({ask(seed) for seed in range(5)}) == 5


def test_a_long_prompt_holds_nobody_up(embedded_server: ServerProcess) -> None:
    """While the tokens of one were made, no other request was let in."""
    long, short = Stream(embedded_server), Stream(embedded_server)
    try:
        long.ask("coral " * 300_000)
        time.sleep(0.1)
        short.ask(PROMPTS[0], temperature=0, max_tokens=1)
        _, ids, times = short.collect()  # on a loaded machine with an empty first response
        refused, _, error = long.answers.get(timeout=120)
    finally:
        long.close()
        short.close()
    assert len(ids) == 1 and "tokens; max_input_tokens is" in str(error)
    assert times[-1] < refused

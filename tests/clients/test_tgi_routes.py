"""TGI's routes in TGI's shapes, its event stream, and each of its errors once."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

PROMPT = "The capital of France is"


def _generate(http: httpx.Client, parameters: dict[str, Any], path: str = "/generate") -> Any:
    response = http.post(path, json={"inputs": PROMPT, "parameters": parameters})
    assert response.status_code == 200, response.text
    return response.json()


def _events(http: httpx.Client, path: str, body: Any) -> list[Any]:
    with http.stream("POST", path, json=body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        return [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:")]


def test_generate_is_one_object_and_root_a_list(http: httpx.Client) -> None:
    found = _generate(http, {"max_new_tokens": 4})
    assert list(found) == ["generated_text"] and found["generated_text"].startswith(" Paris")
    assert _generate(http, {"max_new_tokens": 4}, "/") == [found]
    full = _generate(http, {"max_new_tokens": 4, "return_full_text": True})
    assert full["generated_text"] == PROMPT + found["generated_text"]


def test_details(http: httpx.Client) -> None:
    found = _generate(
        http,
        {"max_new_tokens": 4, "details": True, "decoder_input_details": True, "top_n_tokens": 2},
    )
    details = found["details"]
    assert details["finish_reason"] == "length" and details["generated_tokens"] == 4
    assert details["seed"] is None
    assert "".join(t["text"] for t in details["tokens"]) == found["generated_text"]
    assert all(t["logprob"] <= 0 for t in details["tokens"])
    assert "".join(t["text"] for t in details["prefill"]) == PROMPT
    assert details["prefill"][0]["logprob"] is None
    assert [len(row) for row in details["top_tokens"]] == [2] * 4
    assert all(t["id"] == row[0]["id"] for t, row in zip(details["tokens"], details["top_tokens"],
                                                         strict=True))  # fmt: skip


def test_stop_strings_end_the_text_and_belong_to_it(http: httpx.Client) -> None:
    found = _generate(http, {"max_new_tokens": 9, "stop": ["ris"], "details": True})
    assert found["generated_text"] == " Paris"
    assert found["details"]["finish_reason"] == "stop_sequence"


def test_a_seed_repeats_a_sample_and_is_told(http: httpx.Client) -> None:
    parameters = {"max_new_tokens": 8, "do_sample": True, "details": True}
    first = _generate(http, parameters)
    seed = first["details"]["seed"]
    again = _generate(http, {**parameters, "seed": seed})
    assert again["generated_text"] == first["generated_text"]
    assert again["details"]["seed"] == seed


def test_best_of_returns_the_likeliest_first(http: httpx.Client) -> None:
    found = _generate(http, {"max_new_tokens": 6, "do_sample": True, "best_of": 2, "details": True})
    (other,) = found["details"]["best_of_sequences"]

    def mean(details: Any) -> float:
        total = sum(float(t["logprob"]) for t in details["tokens"])
        return total / int(details["generated_tokens"])

    assert mean(found["details"]) >= mean(other) and "generated_text" in other


def test_streams(http: httpx.Client) -> None:
    whole = _generate(http, {"max_new_tokens": 5, "details": True})
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 5, "top_n_tokens": 1}}
    events = _events(http, "/generate_stream", body)
    assert [e["index"] for e in events] == [1, 2, 3, 4, 5]
    assert all(e["generated_text"] is None and e["details"] is None for e in events[:-1])
    assert "".join(e["token"]["text"] for e in events) == whole["generated_text"]
    assert [e["token"]["id"] for e in events] == [t["id"] for t in whole["details"]["tokens"]]
    last = events[-1]
    assert last["generated_text"] == whole["generated_text"]
    assert last["details"] == {
        "finish_reason": "length", "generated_tokens": 5, "seed": None, "input_length": 5,
    }  # fmt: skip
    by_root = _events(http, "/", {**body, "stream": True})
    assert [e["token"] for e in by_root] == [e["token"] for e in events]


def test_headers(http: httpx.Client) -> None:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 3}}
    headers = http.post("/generate", json=body, headers={"x-request-id": "mine"}).headers
    assert headers["x-prompt-tokens"] == "5" and headers["x-generated-tokens"] == "3"
    assert headers["x-compute-characters"] == str(len(PROMPT))
    assert headers["x-request-id"] == "mine"


def test_tokenize(http: httpx.Client) -> None:
    found = http.post("/smollm2-135m-instruct/tokenize", json={"inputs": PROMPT}).json()
    assert [PROMPT[t["start"] : t["stop"]] for t in found] == [t["text"] for t in found]
    assert set(found[0]) == {"id", "text", "start", "stop"}
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    answer = http.post("/chat_tokenize", json=chat).json()
    assert "<|im_start|>user\nhi<|im_end|>" in answer["templated_text"]
    assert "".join(t["text"] for t in answer["tokenize_response"]) == answer["templated_text"]
    called = {"name": "f", "arguments": '{"city": "Bern"}'}
    call = {"id": "a", "type": "function", "function": called}
    chat["messages"] += [{"role": "assistant", "content": None, "tool_calls": [call]}]
    text = http.post("/chat_tokenize", json=chat).json()["templated_text"]
    assert '{"name": "f", "arguments": {"city": "Bern"}}<|im_end|>' in text


def test_info(http: httpx.Client) -> None:
    info = http.get("/smollm2-135m-instruct/info").json()
    assert info["model_pipeline_tag"] == "text-generation"
    assert info["max_total_tokens"] == 8192 and info["max_input_tokens"] == 8191
    both = http.get("/info").json()
    assert both["model_id"] == info["model_id"] and "model_type" in both


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 0}, "`best_of` must be > 0 and <= 2. Given: 0"),
    ({"best_of": 3}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    (
        {"best_of": 2, "do_sample": True, "seed": 1},
        "`seed` must not be set when `best_of` > 1",
    ),
    ({"temperature": 0.0}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 8191. Given: 0"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    (
        {"max_new_tokens": 9000},
        "`inputs` tokens + `max_new_tokens` must be <= 8192. Given: 5 `inputs` tokens and 9000 "
        "`max_new_tokens`",
    ),
]


@pytest.mark.parametrize(("parameters", "message"), ERRORS)
def test_errors(http: httpx.Client, parameters: dict[str, Any], message: str) -> None:
    response = http.post("/generate", json={"inputs": PROMPT, "parameters": parameters})
    assert response.status_code == 422
    assert response.json() == {
        "error": f"Input validation error: {message}", "error_type": "validation",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"best_of": 2, "do_sample": True}, "`best_of` != 1 is not supported when streaming"),
        ({"decoder_input_details": True}, "`decoder_input_details` == true is not supported"),
        ({"max_new_tokens": 9000}, "must be <= 8192"),
    ],
)
def test_a_refused_stream_has_the_status_of_a_refusal(
    http: httpx.Client, parameters: dict[str, Any], message: str
) -> None:
    body = {"inputs": PROMPT, "parameters": parameters}
    response = http.post("/generate_stream", json=body)
    assert response.status_code == 422 and message in response.json()["error"]


def test_empty_and_too_long_inputs(http: httpx.Client) -> None:
    empty = http.post("/generate", json={"inputs": ""})
    assert empty.status_code == 422
    assert empty.json()["error"].endswith("`inputs` cannot be empty")
    long = http.post("/generate", json={"inputs": "word " * 9000})
    assert long.status_code == 422
    assert "`inputs` must have less than 8191 tokens. Given: 9" in long.json()["error"]
    cut = {"inputs": "word " * 9000, "parameters": {"truncate": 10, "max_new_tokens": 1}}
    assert http.post("/generate", json=cut).headers["x-prompt-tokens"] == "10"

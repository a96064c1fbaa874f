"""Options of TGI's routes and of a generator's own interface before a real server."""

from __future__ import annotations

import json
from typing import Any

import httpx
from gateways import GENERATOR, Served

CAPITAL: Any = [{"role": "user", "content": "What is the capital of France?"}]
PROMPT = "The capital of France is"


def test_unknown_fields_of_tgi_are_answered_and_named(http: httpx.Client) -> None:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 3, "foo": 1, "bar\r\nx": 2}, "b": 0}
    for path in ("/generate", "/"):
        answer = http.post(path, json=body)
        assert answer.status_code == 200
        names = answer.headers["x-unknown-fields"]
        assert names == "b, parameters.foo, parameters.bar%0D%0Ax"
    with http.stream("POST", "/generate_stream", json=body) as answer:
        assert answer.headers["x-unknown-fields"].startswith("b, parameters.foo")
        assert "data:" in answer.read().decode()
    refused = http.post("/generate", json={"inputs": PROMPT, "parameters": {"num_beams": 9}})
    assert refused.status_code == 422 and "num_beams is 9" in refused.json()["error"]
    refused = http.post("/generate", json={"inputs": PROMPT, "parameters": {"tgt_lang": "fr"}})
    assert refused.status_code == 422 and "tgt_lang is set" in refused.json()["error"]
    assert "x-unknown-fields" not in http.post("/generate", json={"inputs": PROMPT}).headers


def test_the_models_own_interface_knows_the_same_options(served: Served) -> None:
    """vLLM's options that change nothing are taken, others refused; none goes with a prompt that
    has no use for it."""
    url = f"{served.server.http_url}/v2/models/{GENERATOR}/generate"
    messages = json.dumps([*CAPITAL, {"role": "assistant", "content": "It is"}])

    def ask(given: dict[str, Any], **parameters: Any) -> httpx.Response:
        short = {"max_tokens": 2, "temperature": 0, **parameters}
        return httpx.post(url, json={**given, "parameters": short}, timeout=60)

    text = {"text_input": PROMPT}
    assert ask(text, use_beam_search=False, length_penalty="1.0").json()["text_output"] == " Paris."
    assert ask({"messages": messages}, continue_final_message=True).status_code == 200
    for given, parameters, word in (
        (text, {"use_beam_search": True, "n": 9}, "num_beams is 9; the most allowed is 8"),
        (text, {"bad_words": '["a"]'}, "bad_words"),
        (text, {"continue_final_message": True}, "go with messages"),
        ({"messages": messages}, {"suffix": "x"}, "suffix"),
        ({**text, "tools": "[{}]"}, {}, "tools"),
    ):
        refused = ask(given, **parameters)
        assert refused.status_code == 400 and word in refused.json()["error"]

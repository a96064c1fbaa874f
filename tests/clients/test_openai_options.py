"""Options of OpenAI's routes before a real server: done as asked, or refused by name."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import openai
import pytest
from gateways import EMBEDDER, GENERATOR

CAPITAL: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: Any = {"model": GENERATOR, "temperature": 0, "max_tokens": 8}
PROMPT = "The capital of France is"
ROUTES = {"/v1/chat/completions": {"messages": CAPITAL}, "/v1/completions": {"prompt": PROMPT}}


def _text(http: httpx.Client, path: str, **fields: Any) -> str:
    answer = http.post(path, json={**GREEDY, **ROUTES[path], **fields})
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def _refused(http: httpx.Client, path: str, **fields: Any) -> Any:
    answer = http.post(path, json={**GREEDY, **ROUTES[path], **fields})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


CONSTRAINTS: list[tuple[dict[str, Any], str]] = [
    ({"structured_outputs": {"regex": "(Rome|Oslo), [0-9]{2}"}}, "(Rome|Oslo), [0-9]{2}"),
    ({"structured_outputs": {"choice": ["Rome", "Oslo"]}}, "Rome|Oslo"),
    ({"structured_outputs": {"json": {"enum": ["Rome", 7]}}}, '"Rome"|7'),
    ({"structured_outputs": {"json": '{"enum": [7, 8]}'}}, "[78]"),
    ({"structured_outputs": {"grammar": 'root ::= "x" [0-3] "y"'}}, "x[0-3]y"),
    ({"structured_outputs": {"json_object": True}, "stop": [":"]}, r'\{[^:]*'),
    ({"response_format": {"type": "json_schema", "json_schema": {
        "name": "n", "strict": False, "schema": {"enum": [1, 2]}}}}, "[12]"),
    ({"response_format": {"type": "json_object", "schema": {"enum": [3, 4]}}}, "[34]"),
    ({"response_format": {"type": "json", "value": {"enum": [3, 4]}}}, "[34]"),
    ({"response_format": {"type": "regex", "value": "a[bc]"}}, "a[bc]"),
    ({"response_format": {"type": "json_object"}, "stop": [":"]}, r'\{[^:]*'),
]  # fmt: skip


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(("fields", "pattern"), CONSTRAINTS)
def test_every_way_to_bind_an_answer(
    http: httpx.Client, path: str, fields: dict[str, Any], pattern: str
) -> None:
    """``structured_outputs`` was dropped, and ``response_format`` in completions."""
    assert re.fullmatch(pattern, _text(http, path, **{**fields, "max_tokens": 24}))


def test_what_is_wrong_with_a_prompt_names_it(http: httpx.Client) -> None:
    """The models' own name for token ids was told, and none for too many prompts."""
    for prompt, word in (([1, 10**6], "prompt[1] is 1000000"), (["a"] * 33, "batch size 33")):
        for stream in (False, True):
            error = _refused(http, "/v1/completions", prompt=prompt, stream=stream)
            assert error["param"] in ("prompt", "prompt[1]") and word in error["message"], error


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"structured_outputs": {}}, "structured_outputs", "none"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least 1"),
        ({"structured_outputs": {"structural_tag": "a"}}, "structured_outputs.structural_tag",
         "not supported"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex",
         "only one"),
        ({"guided_regex": "(a"}, "guided_regex", "regex"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 5}}}},
         "response_format", "type"),
        ({"response_format": {"type": "json_object", "json_schema": {"schema": {}}}},
         "response_format.type", "json_object"),
        ({"response_format": {"type": "text", "schema": {"type": "null"}}},
         "response_format.type", "response_format.schema"),
        ({"response_format": {"type": "text", "json_schema": {"schema": {"type": "null"}}}},
         "response_format.type", "response_format.json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
        ({"bad_words": ["a"]}, "bad_words", "not supported"),
        ({"num_beams": 99}, "num_beams", "the most allowed is 8"),
        ({"num_beams": 2, "temperature": 1}, "num_beams", "does not go with sampling"),
        ({"num_beams": 2, "guided_regex": "a"}, "num_beams", "guided_regex"),
        ({"num_beams": 2, "use_beam_search": False}, "num_beams", "use_beam_search"),
        ({"length_penalty": 2}, "length_penalty", "num_beams is 1"),
        ({"early_stopping": "soon"}, "early_stopping", "soon"),
        ({"priority": -1000}, "priority", "-1000"),
        ({"prompt_logprobs": 1}, "prompt_logprobs", "not supported"),
        ({"no_such_field": 1}, "no_such_field", "unknown"),
        ({"stop": ["a", ""]}, "stop", "empty"),
        ({"stop": ["a"] * 5}, "stop", "5 texts"),
        ({"logit_bias": {"999999": 1}}, "logit_bias", "999999"),
        ({"logit_bias": {"1": 5, "01": 6}}, "logit_bias", "more than once"),
        ({"logit_bias": {"1": 101}}, "logit_bias[1]", "101"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "-1"),
        ({"min_tokens": 99}, "min_tokens", "99"),
        ({"tgt_lang": "fr"}, "tgt_lang", "no languages"),
        ({"src_lang": "fr"}, "src_lang", "no languages"),
        ({"forced_bos_token_id": 5}, "forced_bos_token_id", "no encoder-decoder"),
        ({"top_p": 0}, "top_p", "0"),
        ({"seed": 1.5}, "seed", "1.5"),
    ],
)  # fmt: skip
def test_refusals_name_field_value_and_limit(
    http: httpx.Client, path: str, fields: dict[str, Any], param: str, word: str
) -> None:
    """They came as 422, without ``param``; fields that are not known here were dropped."""
    for stream in (False, True):
        error = _refused(http, path, **fields, stream=stream)
        assert error["param"] == param and word in error["message"], error
        assert param.rsplit(".", maxsplit=1)[-1] in error["message"] or "valid" in error["message"]


def test_the_models_own_options(http: httpx.Client) -> None:
    """Each changes the answer in the way that vLLM describes."""
    path = "/v1/completions"
    assert _text(http, path) == _text(http, path, typical_p=1.0, min_p=0.0, top_k=-1)
    ids = [t["id"] for t in http.post(f"/{GENERATOR}/tokenize", json={"inputs": " Paris"}).json()]
    assert _text(http, path, stop_token_ids=ids) == " Paris"
    assert _text(http, path, stop=["Paris"]) == " "
    assert _text(http, path, stop=["Paris"], include_stop_str_in_output=True) == " Paris"
    assert "Paris" not in _text(http, path, logit_bias={str(ids[0]): -100})
    answer = http.post(path, json={**GREEDY, "prompt": PROMPT, "truncate_prompt_tokens": 2})
    assert answer.json()["usage"]["prompt_tokens"] == 2
    # The answer ends when the model says so, unless it may not.
    ended = http.post("/v1/chat/completions", json={"messages": CAPITAL, "temperature": 0}).json()
    count = ended["usage"]["completion_tokens"]
    assert ended["choices"][0]["finish_reason"] == "stop"
    for fields in ({"ignore_eos": True}, {"min_tokens": count + 3}):
        body = {"messages": CAPITAL, "temperature": 0, "max_tokens": count + 3, **fields}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.json()["choices"][0]["finish_reason"] == "length"


def test_a_beam_search_gives_the_best_answers(http: httpx.Client) -> None:
    """All ``n`` come from one search, in whatever dialect; OpenAI's temperature does not apply."""
    body = {"model": GENERATOR, "max_tokens": 8, "prompt": [PROMPT, "Once upon a"], "n": 2}
    fields = {"num_beams": 3, "length_penalty": 0.5, "early_stopping": "never"}
    found = http.post("/v1/completions", json={**body, **fields, "logprobs": 1}).json()
    texts = [choice["text"] for choice in found["choices"]]
    assert len(set(texts)) == 4 and found["usage"]["completion_tokens"] <= 32
    scores = [sum(c["logprobs"]["token_logprobs"]) for c in found["choices"]]
    assert scores[0] > scores[1] and scores[2] > scores[3]
    own = {**body, **fields, "use_beam_search": True, "best_of": 3, "temperature": 0}
    again = http.post("/v1/completions", json=own).json()
    assert "choices" in again, again
    assert [choice["text"] for choice in again["choices"]] == texts
    tgi = {"inputs": PROMPT, "parameters": {"max_new_tokens": 8, **fields}}
    assert http.post(f"/{GENERATOR}/generate", json=tgi).json()["generated_text"] == texts[0]
    chat = {"model": GENERATOR, "messages": CAPITAL, "max_tokens": 8, "num_beams": 2, "n": 2}
    answer = http.post("/v1/chat/completions", json=chat).json()
    contents = [choice["message"]["content"] for choice in answer["choices"]]
    assert len(set(contents)) == 2
    with http.stream("POST", "/v1/chat/completions", json={**chat, "n": 1, "stream": True}) as got:
        events = [json.loads(line[6:]) for line in got.iter_lines() if line[:7] == "data: {"]
    assert "".join(e["choices"][0]["delta"].get("content") or "" for e in events) == contents[0]


def test_how_messages_become_a_prompt(client: openai.OpenAI, http: httpx.Client) -> None:
    """``continue_final_message`` was dropped: the model began a new message."""
    messages = [*CAPITAL, {"role": "assistant", "content": "Its name begins with P and ends with"}]
    asked = {"messages": messages, "continue_final_message": True}
    shown = http.post("/chat_tokenize", json=asked).json()
    assert shown["templated_text"].endswith("\n" + messages[1]["content"])
    answer = client.chat.completions.create(
        messages=messages, extra_body={"continue_final_message": True}, **GREEDY
    )
    assert answer.usage and answer.usage.prompt_tokens == len(shown["tokenize_response"])
    plain = client.completions.create(prompt=shown["templated_text"], **GREEDY)
    assert answer.choices[0].message.content == plain.choices[0].text
    # Without the beginning of an answer, the prompt is shorter.
    whole, bare = (
        client.chat.completions.create(
            messages=CAPITAL, extra_body={"add_generation_prompt": flag}, **GREEDY
        ).usage
        for flag in (True, False)
    )
    assert whole and bare and whole.prompt_tokens > bare.prompt_tokens


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"chat_template_kwargs": {"enable_thinking": False}},
         "chat_template_kwargs.enable_thinking", "reads no variable"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "reads no variable"),
        ({"documents": [{"text": "a"}]}, "documents", "reads no variable"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message",
         "are true"),
        ({"chat_template": "{{ 1 }}"}, "chat_template", "not supported"),
        ({"tool_prompt": "Call!"}, "tool_prompt", "`tools` is empty"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "messages[0].role", "bot"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages[0].content[0].text", "required"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
        ({"messages": [{"role": "user", "content": [
            {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}]},
         "messages[0].content[0].input_audio", "not supported"),
        ({"modalities": ["audio", "text"]}, "modalities", "not supported"),
        ({"max_tokens": 4, "max_completion_tokens": 4}, "max_tokens", "expected one"),
        ({"top_logprobs": 1}, "top_logprobs", "logprobs"),
        ({"stream_options": {"include_usage": True}, "stream": False}, "stream_options", "stream"),
        ({"stream_options": {"continuous_usage_stats": True}, "stream": True},
         "stream_options.continuous_usage_stats", "include_usage"),
        ({"function_call": "auto"}, "function_call", "tool_choice"),
        ({"web_search_options": {}}, "web_search_options", "search nothing"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].custom", "JSON"),
    ],
)  # fmt: skip
def test_what_a_chat_cannot_do(
    http: httpx.Client, fields: dict[str, Any], param: str, word: str
) -> None:
    error = _refused(http, "/v1/chat/completions", **fields)
    assert error["param"] == param and word in error["message"], error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{"max_tokens": 9000}, {"max_tokens": 1, "long": True}])
@pytest.mark.parametrize(("path", "param"), zip(ROUTES, ("messages", "prompt"), strict=True))
def test_too_long_is_told_in_the_words_that_clients_look_for(
    http: httpx.Client, path: str, param: str, fields: dict[str, Any], stream: bool
) -> None:
    """It was 422 with no code: agents that shorten their prompts did not."""
    asked: dict[str, Any] = {"max_tokens": fields["max_tokens"], "stream": stream}
    if "long" in fields:
        text = "word " * 9000
        asked[param] = [{"role": "user", "content": text}] if param == "messages" else text
    error = _refused(http, path, **asked)
    assert error["code"] == "context_length_exceeded" and error["param"] == param
    assert "maximum context length is 8192 tokens" in error["message"]
    assert re.search(r"\b90\d\d\b", error["message"])


@pytest.mark.parametrize("path", ROUTES)
def test_usage_tells_what_was_cached(client: openai.OpenAI, path: str) -> None:
    """It was absent: nobody could tell whether prompts were found again."""
    text = f"{path} " + "A prompt that is longer than a block of the cache. " * 12
    counts = []
    for stream in (False, False, True):
        asked: Any = {**GREEDY, "stream": stream, "max_tokens": 2}
        if stream:
            asked["stream_options"] = {"include_usage": True}
        if path == "/v1/completions":
            answer: Any = client.completions.create(prompt=text, **asked)
        else:
            message: Any = {"role": "user", "content": text}
            answer = client.chat.completions.create(messages=[message], **asked)
        usage = list(answer)[-1].usage if stream else answer.usage
        counts.append((usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens))
    assert counts[0][0] < 100 < counts[1][0] < counts[1][1]
    assert counts[2] == counts[1]


def test_a_model_that_does_something_else(client: openai.OpenAI) -> None:
    """It was 424, which no client of OpenAI's knows."""
    with pytest.raises(openai.BadRequestError, match="cannot generate text") as caught:
        client.chat.completions.create(messages=CAPITAL, **{**GREEDY, "model": EMBEDDER})
    assert caught.value.code == "unsupported_model" and caught.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="cannot embed"):
        client.embeddings.create(model=GENERATOR, input="a")
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(prompt="a", model="nix")
    assert missing.value.code == "model_not_found" and missing.value.param == "model"


def test_fields_without_effect_are_taken(client: openai.OpenAI) -> None:
    idle: Any = {
        "user": "me", "store": True, "metadata": {"a": "b"}, "service_tier": "auto",
        "safety_identifier": "x", "prompt_cache_key": "k", "prompt_cache_retention": "24h",
        "verbosity": "medium",
        "modalities": ["text"], "audio": None, "parallel_tool_calls": True,
        "function_call": "none",
    }  # fmt: skip
    plain = client.chat.completions.create(messages=CAPITAL, **GREEDY)
    full = client.chat.completions.create(messages=CAPITAL, **GREEDY, **idle)
    assert plain.choices[0].message == full.choices[0].message


def test_the_page_of_the_description_has_the_tables(http: httpx.Client) -> None:
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    fields = schemas["ChatBody"]["properties"]
    assert fields["store"]["description"].startswith("No effect: ")
    assert fields["audio"]["description"].startswith("Not supported: ")
    assert fields["modalities"]["anyOf"][0]["items"] == {"enum": ["text"]}
    assert schemas["Message"]["required"] == ["role"] and "tool_calls" in json.dumps(schemas)

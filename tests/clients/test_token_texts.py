"""Token texts, offsets, bytes and alternatives in every dialect, streamed and not.

Three tiny generators with tokenizers that spell characters in bytes, fall back to bytes, and lose
spaces; the random models write broken characters and special tokens, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gateways import Served, fronted
from serving import ONE_THREAD
from tiny.spoken import write_generator

from atoll.cli.choose import entry_of
from atoll.launcher import ServerProcess
from atoll.launcher.options import ServerOptions
from atoll_client import Client
from atoll_client.errors import ValidationError

NAMES = ("byte-level", "llama", "unigram-cleaned")
COUNT = 24
PROMPT = "a the word, é東京"
# What a test asks for, by what OpenAI's routes call it.
ASKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "special tokens shown": {"skip_special_tokens": False},
    "two answers": {"n": 2},
    "stops": {"stop": ["e", "\ufffd\ufffd", " word"]},
    "stops after a while": {"stop": ["a", "e", "."], "min_tokens": COUNT - 4},
    "a long stop": {"stop": ["no such text at all"]},
}  # fmt: skip

each_model = pytest.mark.parametrize("name", NAMES)
each_way = pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The three models behind one gateway."""
    entries = []
    for name in NAMES:
        folder = tmp_path_factory.mktemp("spoken") / name
        folder.mkdir()
        write_generator(name, folder)
        # Beside another client, prompts are read in pieces, whose last digits differ.
        settings = {"task": "generate", "served_model_name": name, "fair_scheduling": "false"}
        entries.append(entry_of(str(folder), settings))
    options = ServerOptions.on_free_ports(
        entries=tuple(entries), exit_timeout_s=3, watch_interval_s=0.0, environment=ONE_THREAD
    )
    with ServerProcess(options) as server, fronted(server) as served:
        yield served


@pytest.fixture(scope="module")
def http(spoken: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=spoken.url, timeout=60.0) as client:
        yield client


def counts(usage: dict[str, Any]) -> dict[str, Any]:
    """Without the tokens found in the cache: the second of two requests finds the first's there."""
    return {name: count for name, count in usage.items() if name != "prompt_tokens_details"}


def options(asked: dict[str, Any], **more: Any) -> dict[str, Any]:
    """So hot that every token comes up."""
    return {
        "temperature": 3.0, "seed": 11, "max_tokens": COUNT, "ignore_eos": True, **asked, **more,
    }  # fmt: skip


def answer(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def events(http: httpx.Client, path: str, body: dict[str, Any]) -> list[Any]:
    with http.stream("POST", path, json=body) as response:
        assert response.status_code == 200, response.read()
        lines = [line[5:].strip() for line in response.iter_lines() if line.startswith("data:")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@each_model
@each_way
@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("echo", [False, True])
def test_completions(
    http: httpx.Client, name: str, asked: dict[str, Any], count: int, echo: bool
) -> None:
    """Texts add up, offsets point into the text, and a stream says the same as a whole answer."""
    body = {"model": name, "prompt": PROMPT, "logprobs": count, "echo": echo, **options(asked)}
    if echo and name.startswith("unigram"):
        refused = http.post("/v1/completions", json=body)
        assert refused.status_code == 400 and "`echo`" in refused.json()["error"]["message"]
        return
    found = answer(http, "/v1/completions", body)
    num_tokens = 0
    for choice in found["choices"]:
        details = choice["logprobs"]
        tokens, offsets = details["tokens"], details["text_offset"]
        assert "".join(tokens) == choice["text"] and choice["text"].startswith(PROMPT * echo)
        assert all(choice["text"][at:].startswith(t) for t, at in zip(tokens, offsets, strict=True))
        assert offsets == [len("".join(tokens[:i])) for i in range(len(tokens))]
        assert len(details["top_logprobs"]) == len(details["token_logprobs"]) == len(tokens)
        # The likeliest, all told apart, and the token itself.
        rows = [row for row in details["top_logprobs"] if row is not None]
        assert len(rows) == len(tokens) - echo
        assert all(max(count, 1) <= len(row) <= count + 1 for row in rows)
        num_tokens += len(tokens)
    usage = found["usage"]
    num_echoed = usage["prompt_tokens"] * len(found["choices"]) * echo
    assert num_tokens == usage["completion_tokens"] + num_echoed
    if "min_tokens" in asked:
        assert usage["completion_tokens"] > asked["min_tokens"]
    for stop in asked.get("stop", ()) if not echo else ():
        ignored = asked.get("min_tokens", 0)
        assert all(stop not in "".join(c["logprobs"]["tokens"][ignored:]) for c in found["choices"])
    streamed = events(
        http, "/v1/completions",
        {**body, "stream": True, "stream_options": {"include_usage": True}},
    )  # fmt: skip
    assert counts(streamed[-1]["usage"]) == counts(usage)
    pieces = [event["choices"][0] for event in streamed[:-1]]
    for choice in found["choices"]:
        own = [piece for piece in pieces if piece["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in own) == choice["text"]
        assert all("".join(p["logprobs"]["tokens"]) == p["text"] for p in own)
        for key, values in choice["logprobs"].items():
            assert [v for piece in own for v in piece["logprobs"][key]] == values
        reasons = [piece["finish_reason"] for piece in own if piece["finish_reason"]]
        assert reasons == [choice["finish_reason"]]


@each_model
@each_way
@pytest.mark.parametrize("count", [None, 2])
def test_chat(http: httpx.Client, name: str, asked: dict[str, Any], count: int | None) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    body = {"model": name, "messages": messages, "logprobs": True, **options(asked)}
    if count is not None:
        body["top_logprobs"] = count
    found = answer(http, "/v1/chat/completions", body)
    for choice in found["choices"]:
        content, text = choice["logprobs"]["content"], choice["message"]["content"]
        assert "".join(one["token"] for one in content) == text
        assert all(len(one["top_logprobs"]) == (count or 0) for one in content)
        data = b"".join(bytes(one["bytes"]) for one in content)
        if not asked.get("stop") and "cleaned" not in name:
            characters = data.decode(errors="ignore")
            assert characters == text.replace("\ufffd", "")
        for one in content:
            for top in one["top_logprobs"]:
                name_of = bytes(top["bytes"]).decode(errors="backslashreplace")
                assert top["token"] in (one["token"], name_of) or top["token"][:6] == "bytes:"
    streamed = events(
        http, "/v1/chat/completions",
        {**body, "stream": True, "stream_options": {"include_usage": True}},
    )  # fmt: skip
    assert counts(streamed[-1]["usage"]) == counts(found["usage"])
    pieces = [event["choices"][0] for event in streamed[:-1]]
    assert (
        sum(len(c["logprobs"]["content"]) for c in found["choices"])
        == (found["usage"]["completion_tokens"])
    )
    for choice in found["choices"]:
        own = [piece for piece in pieces if piece["index"] == choice["index"]]
        texts = [piece["delta"].get("content") or "" for piece in own]
        assert "".join(texts) == choice["message"]["content"]
        logprobs = [piece["logprobs"] for piece in own if piece["logprobs"]]
        assert [one for lp in logprobs for one in lp["content"]] == choice["logprobs"]["content"]
        assert [p["finish_reason"] for p in own if p["finish_reason"]] == [choice["finish_reason"]]


@each_model
@pytest.mark.parametrize("stop", [[], ["e"], [" word", "\ufffd\ufffd"]])
def test_tgi(http: httpx.Client, name: str, stop: list[str]) -> None:
    """A special token is shown by its name and is no part of the text."""
    parameters = {
        "do_sample": True, "temperature": 3.0, "seed": 5, "max_new_tokens": COUNT, "stop": stop,
        "top_n_tokens": 2,
    }  # fmt: skip
    path = f"/{name}/generate"
    details = {"details": True, "decoder_input_details": True}
    body = {"inputs": PROMPT, "parameters": {**parameters, **details}}
    found = answer(http, path, body)
    assert answer(http, f"/{name}/", body) == [found]
    tokens = found["details"]["tokens"]
    shown = [token["text"] for token in tokens if not token["special"]]
    assert "".join(shown) == found["generated_text"]
    assert len(tokens) == found["details"]["generated_tokens"]
    assert all(t["text"] in ("<s>", "</s>", "<pad>") for t in tokens if t["special"])
    assert [len(row) for row in found["details"]["top_tokens"]] == [2] * len(tokens)
    prefill = [t["text"] for t in found["details"]["prefill"]]
    if name.startswith("unigram"):
        assert prefill == ["<pad>"]
    else:
        assert "".join(prefill) == ("<s>" if name == "llama" else "") + PROMPT
    streamed = events(http, f"{path}_stream", {"inputs": PROMPT, "parameters": parameters})
    assert [event["token"] for event in streamed] == tokens
    assert [event["top_tokens"] for event in streamed] == found["details"]["top_tokens"]
    assert [event["index"] for event in streamed] == [*range(1, len(tokens) + 1)]
    last = streamed[-1]
    assert last["generated_text"] == found["generated_text"]
    for key in ("finish_reason", "generated_tokens", "seed"):
        assert last["details"][key] == found["details"][key]


@each_model
@each_way
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_own_client_and_tensors(
    spoken: Served, name: str, asked: dict[str, Any], transport: str
) -> None:
    server = spoken.server
    with Client(server.grpc_url if transport == "grpc" else server.http_url) as client:
        wanted = options({k: v for k, v in asked.items() if k != "n"}, top_logprobs=2)
        whole = client.generate(PROMPT, name, prompt_logprobs=0, **wanted)
        chunks = list(client.stream(PROMPT, name, prompt_logprobs=0, **wanted))
        ids = client.generate(
            PROMPT, name, token_ids=True, **{k: v for k, v in wanted.items() if k != "top_logprobs"}
        )
        with pytest.raises(ValidationError, match="n is 2"):
            client.generate(PROMPT, name, n=2)
    for one in (whole, *chunks):
        assert "".join(token.text for token in one.tokens) == one.text
    tokens = [token for chunk in chunks for token in chunk.tokens]
    assert tokens == list(whole.tokens) and len(tokens) == whole.num_output_tokens
    assert [token.id for token in tokens] == [token.id for token in ids.tokens][: len(tokens)]
    assert all(
        token.special for token in tokens if token.name and not token.text and token.bytes == b""
    )
    prompt = next(chunk.prompt_tokens for chunk in chunks if chunk.prompt_tokens)
    assert prompt == whole.prompt_tokens
    text = "" if name.startswith("unigram") else PROMPT
    assert "".join(token.text for token in prompt) == text
    body = {"text_input": PROMPT, "parameters": {}, "return_logprobs": True, "stream": False}
    body["sampling_parameters"] = json.dumps(wanted)
    found = httpx.post(f"{server.http_url}/v2/models/{name}/generate", json=body, timeout=60).json()
    rows = [next(iter(entry.values())) for entry in json.loads(found["logprobs"])]
    assert "".join(row["decoded_token"] for row in rows) == found["text_output"] == whole.text


@pytest.mark.parametrize(("asked", "counts"), [
    ({"prompt_logprobs": 3}, (None, 3)), ({"prompt_logprobs": 0, "logprobs": 2}, (2, 0)),
    ({"prompt_logprobs": True, "top_logprobs": 2}, (2, 2)), ({"logprobs": 0}, (0, None)),
    ({"prompt_logprobs": 1, "logprobs": False}, (None, 1)), ({"logprobs": True}, (0, None)),
])  # fmt: skip
def test_options_ask_for_alternatives(
    spoken: Served, asked: dict[str, Any], counts: tuple[int | None, int | None]
) -> None:
    """vLLM's number for the prompt was taken for true; without a flag nothing came back."""
    url = f"{spoken.server.http_url}/v2/models/llama/generate"
    body = {"text_input": PROMPT, "sampling_parameters": json.dumps({"max_tokens": 5, **asked})}
    found = httpx.post(url, json=body, timeout=60).json()
    for name, count in zip(("logprobs", "prompt_logprobs"), counts, strict=True):
        rows = json.loads(found[name]) if count is not None else None
        assert (name in found) == (count is not None)
        for row in (rows or [])[1:]:
            assert max(count or 0, 1) <= len(row) <= (count or 0) + 1


@each_model
def test_content_as_parts(http: httpx.Client, name: str) -> None:
    """The template loops over parts."""
    texts: list[Any] = ["a the", [{"type": "text", "text": "a "}, {"type": "text", "text": "the"}]]
    prompts = [
        answer(
            http, f"/{name}/chat_tokenize", {"messages": [{"role": "user", "content": content}]}
        )["templated_text"]
        for content in texts
    ]
    assert prompts == ["<s>a the"] * 2


@pytest.mark.parametrize("name", ["byte-level", "llama"])
@pytest.mark.parametrize("prompt", [PROMPT, [40, 41, 42]])
def test_an_echo_alone(http: httpx.Client, name: str, prompt: Any) -> None:
    """In a stream, a token followed."""
    body = {"model": name, "prompt": prompt, "max_tokens": 0, "echo": True}
    for more in ({}, {"logprobs": 1}):
        found = answer(http, "/v1/completions", {**body, **more})
        (choice,) = found["choices"]
        if prompt == PROMPT:
            assert choice["text"] == PROMPT
        assert found["usage"]["completion_tokens"] == 0 and choice["finish_reason"] == "length"
        streamed = events(http, "/v1/completions", {**body, **more, "stream": True})
        pieces = [event["choices"][0] for event in streamed]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        if more:
            tokens = [t for piece in pieces for t in piece["logprobs"]["tokens"]]
            assert tokens == choice["logprobs"]["tokens"] and "".join(tokens) == choice["text"]

"""Ollama's interface by the ollama package, and what Open WebUI sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import ollama
import pytest
from echo import told
from gateways import EMBEDDER, GENERATOR, WEATHER, Served

OPEN, CLOSED = "<think>\n", "<think>\n\n</think>\n\n"
ROME = '{"city": "Rome"}'
CALLED = f'<tool_call>\n{{"name": "get_weather", "arguments": {ROME}}}\n</tool_call>'
CALLS = [("get_weather", {"city": "Rome"})]
SCHEMA = WEATHER["function"]["parameters"]
GREEDY = {"temperature": 0, "num_predict": 200}


class Case(NamedTuple):
    """What a model writes, and what it comes to. behind: what the template adds."""

    model: str
    answer: str
    behind: str
    content: str
    thinking: str | None = None
    calls: list[tuple[str, Any]] = []  # noqa: RUF012
    more: dict[str, Any] = {}  # noqa: RUF012
    reason: str = "stop"


CASES = [
    Case("hermes", f"Hm.\n</think>\n\nI look.\n{CALLED}", OPEN, "I look.", "Hm.", CALLS),
    Case("hermes", f"Hm.</think>{CALLED}{CALLED}", OPEN, "", "Hm.", CALLS * 2, {"think": True}),
    Case("hermes", ROME, CLOSED, ROME, more={"think": False, "format": SCHEMA, "tools": []}),
    Case("hermes", "{}", CLOSED, "{}", more={"think": False, "format": "json", "tools": []}),
    Case("xml", "One. Two. Three.", "", "One. ", more={"options": {**GREEDY, "stop": ["Two"]}}),
    Case("xml", "One. Two.", "", "One", more={"options": {**GREEDY, "num_predict": 3}},
         reason="length"),
]  # fmt: skip


@pytest.fixture(scope="module")
def client(echoes: Served) -> Iterator[ollama.Client]:
    with ollama.Client(echoes.url) as client:
        yield client


def _asked(checkpoints: dict[str, Path], case: Case) -> dict[str, Any]:
    content = told(checkpoints[case.model], case.answer, case.behind)
    return {
        "model": case.model, "messages": [{"role": "user", "content": content}],
        "tools": [WEATHER], "options": GREEDY, **case.more,
    }  # fmt: skip


def _calls(message: ollama.Message) -> list[tuple[str, Any]]:
    return [(c.function.name, dict(c.function.arguments)) for c in message.tool_calls or ()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}-{case.answer[:20]}")
def test_chats(client: ollama.Client, checkpoints: dict[str, Path], case: Case) -> None:
    asked = _asked(checkpoints, case)
    whole = client.chat(**asked)
    message = whole.message
    assert (message.content, message.thinking) == (case.content, case.thinking)
    assert (_calls(message), whole.done, whole.done_reason) == (case.calls, True, case.reason)
    assert whole.prompt_eval_count == 256 and whole.eval_count and whole.total_duration
    *parts, last = client.chat(**asked, stream=True)
    assert not any(part.done for part in parts) and last.done_reason == case.reason
    assert "".join(part.message.content or "" for part in parts) == case.content
    assert "".join(part.message.thinking or "" for part in parts) == (case.thinking or "")
    assert [call for part in parts for call in _calls(part.message)] == case.calls
    assert last.eval_count == whole.eval_count and last.prompt_eval_duration


def test_a_conversation_with_a_tool(client: ollama.Client, checkpoints: dict[str, Path]) -> None:
    asked = _asked(checkpoints, CASES[0])
    message = client.chat(**asked).message
    result = told(checkpoints["hermes"], "Hm.</think>Sunny", OPEN)
    asked["messages"] += [
        message, {"role": "tool", "tool_name": "get_weather", "content": result},
    ]  # fmt: skip
    assert client.chat(**asked).message.content == "Sunny"


def test_texts(client: ollama.Client, checkpoints: dict[str, Path]) -> None:
    case = CASES[4]
    prompt = told(checkpoints["xml"], case.answer)
    for more in ({}, {"raw": True, "think": False, "suffix": ""}, {"system": "Count!"}):
        asked: Any = {"model": "xml:latest", "prompt": prompt, **case.more, **more}
        whole = client.generate(**asked, logprobs=True, top_logprobs=1)
        assert (whole.response, whole.done_reason, whole.model) == ("One. ", "stop", "xml:latest")
        assert "".join(one.token for one in whole.logprobs or ()) == "One. "
        parts = list(client.generate(**asked, stream=True, logprobs=True))
        assert "".join(part.response or "" for part in parts) == "One. "
        told_logprobs = [one for part in parts for one in part.logprobs or ()]
        assert [one.token for one in told_logprobs] == [one.token for one in whole.logprobs or ()]
    with pytest.raises(ollama.ResponseError, match="system. is set, but with .raw."):
        client.generate("xml", prompt, raw=True, system="Count!")
    thought = client.generate(
        "hermes", told(checkpoints["hermes"], "Hm.</think>Yes", OPEN), options=GREEDY
    )
    assert (thought.response, thought.thinking) == ("Yes", "Hm.")


def test_loading(client: ollama.Client) -> None:
    """Open WebUI loads and unloads models by empty requests."""
    for answer in (
        client.chat("xml", []), client.generate("xml", ""),
        client.generate("xml", "", keep_alive=0), *client.chat("xml", [], stream=True),
    ):  # fmt: skip
        assert (answer.done, answer.done_reason) == (True, "load")


def test_models(client: ollama.Client, echoes: Served) -> None:
    listed = client.list().models
    assert [one.model for one in listed] == ["harmony:latest", "hermes:latest", "xml:latest"]
    assert [one.model for one in client.ps().models] == [one.model for one in listed]
    for one in listed:
        shown = client.show(str(one.model))
        assert shown.details and shown.details.family == "gpt2" and shown.modelinfo
        assert shown.modelinfo["gpt2.context_length"] == 512 and "messages" in (
            shown.template or ""
        )
        assert shown.capabilities == ["completion", "tools"] + ["thinking"] * (
            one.model != "xml:latest"
        )
    assert httpx.get(f"{echoes.url}/api/version").json()["version"]


def test_embeddings(served: Served) -> None:
    with ollama.Client(served.url) as client:
        found = client.embed(EMBEDDER, ["cat", "dog"])
        vectors = np.array(found.embeddings)
        assert vectors.shape == (2, 384) and found.prompt_eval_count == 6
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        old = np.array(client.embeddings(EMBEDDER, "cat").embedding)
        assert np.allclose(old / np.linalg.norm(old), vectors[0], atol=1e-5)
        assert np.array(client.embed(EMBEDDER, "cat", dimensions=8).embeddings).shape == (1, 8)
        assert client.embed(EMBEDDER, "a " * 9000).prompt_eval_count == 256
        with pytest.raises(ollama.ResponseError, match="256 tokens"):
            client.embed(EMBEDDER, "a " * 9000, truncate=False)
        assert list(client.embed(EMBEDDER, []).embeddings) == []
        with pytest.raises(ollama.ResponseError, match="cannot embed"):
            client.embed(GENERATOR, "cat")
        assert client.show(EMBEDDER).capabilities == ["embedding"]


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"model": "x"}, 404, "'x' is not served"),
    ({"think": True}, 400, "think. is not supported"),
    ({"think": "high"}, 400, "has no levels of effort"),
    ({"options": {"mirostat": 1}}, 400, "options.mirostat"),
    ({"options": {"repeat_last_n": 64}}, 400, "options.repeat_last_n"),
    ({"options": {"num_predict": 9000}}, 400, "num_predict is 9000"),
    ({"messages": [{"role": "user", "content": "a", "images": ["YQ=="]}]}, 400, "images"),
    ({"messages": [{"role": "x", "content": "a"}]}, 400, "messages.0..role is 'x'"),
    ({"top_logprobs": 2}, 400, "top_logprobs. needs"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "status", "message"), REFUSED)
def test_what_is_refused_is_named(
    client: ollama.Client, checkpoints: dict[str, Path], fields: Any, status: int, message: str
) -> None:
    asked = {**_asked(checkpoints, CASES[4]), **fields}
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match=message) as caught:
            list(client.chat(**asked, stream=stream))
        assert caught.value.status_code == status
    if "options" in fields and "num_predict" in fields["options"]:
        # The messages were named, of which there are none.
        with pytest.raises(ollama.ResponseError, match="^prompt has .* num_predict is 9000"):
            client.generate("hermes", "a", options=fields["options"])


def test_models_cannot_be_changed(client: ollama.Client) -> None:
    for call in (
        lambda: client.pull("x"), lambda: client.push("x"), lambda: client.create("x"),
        lambda: client.copy("x", "y"), lambda: client.delete("x"),
    ):  # fmt: skip
        with pytest.raises(ollama.ResponseError, match="is not offered") as caught:
            call()
        assert caught.value.status_code == 501


def test_asynchronous(echoes: Served, checkpoints: dict[str, Path]) -> None:
    asked = _asked(checkpoints, CASES[0])

    async def main() -> None:
        async with ollama.AsyncClient(echoes.url) as client:
            parts = [part async for part in await client.chat(**asked, stream=True)]
            assert "".join(part.message.content or "" for part in parts) == "I look."

    asyncio.run(main())


def test_what_open_webui_sends(echoes: Served, checkpoints: dict[str, Path]) -> None:
    """Names with a tag from the list of models, and calls with the fields of OpenAI's."""
    with httpx.Client(base_url=echoes.url, timeout=60) as http:
        names = [one["model"] for one in http.get("/api/tags").json()["models"]]
        result = told(checkpoints["xml"], "Sunny")
        call = {"index": 0, "id": "call_1", "function": {
            "name": "get_weather", "arguments": {"city": "Rome"}}}  # fmt: skip
        body = {
            "model": names[-1], "stream": True, "options": {"temperature": 0, "num_ctx": 2048},
            "messages": [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call_1", "content": result},
            ],
        }  # fmt: skip
        with http.stream("POST", "/api/chat", json=body) as answer:
            assert answer.headers["content-type"].startswith("application/x-ndjson")
            lines = [json.loads(line) for line in answer.iter_lines()]
        assert "".join(line["message"]["content"] for line in lines) == "Sunny"
        assert lines[-1]["done"] and lines[-1]["model"] == "xml:latest"
        assert "x-unknown-fields" not in answer.headers
        assert {http.head("/").status_code, http.get("/").status_code} == {200}

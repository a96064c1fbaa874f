"""What every route answers is what OpenAPI says of it, without a field more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fake_triton import FakeTriton, Refusal, chunk, response
from jsonschema import Draft202012Validator
from schemas import closed, response_of
from scripted import CODE, gateway

from atoll_client.gateway.core.route import Route
from atoll_client.gateway.core.web import LINES
from atoll_client.gateway.routes import ROUTES

MODELS: dict[str, dict[str, Any]] = {
    "vectors": {"task": "embed", "dimensions": 4, "pooling": "mean", "dtype": "float32"},
    "entries": {"task": "sparse"},
    "order": {"task": "rerank", "revision": "abc"},
    "labels": {"task": "classify", "labels": ["good", "bad"], "max_batch_tokens": 16384},
    "places": {"task": "token_classify", "labels": ["O", "PER"]},
    "words": {
        "task": "generate",
        "max_total_tokens": 64,
        "adapters": ["poet"],
        "max_best_of": 2,
        "has_chat_template": True,
    },
    "wordy": {"task": "generate", "max_total_tokens": 64, "reasoning_parser": "qwen3"},
    "speech": {"task": "transcribe", "tasks": ["translate"], "language_names": {"en": "english"}},
}
TOKEN = {"id": 7, "text": "a", "special": False, "start": 0, "stop": 1}
SPECIAL = {"id": 1, "text": "[CLS]", "special": True, "start": None, "stop": None}
TOLD = {
    "tokenize": [[SPECIAL, TOKEN]], "decode": ["a"], "chat": {"text": "a", "tokens": [TOKEN]},
    "chat_template": "a",
}  # fmt: skip
LOGPROBS = json.dumps(
    [{
        "7": {"decoded_token": "one", "logprob": -0.5, "rank": 1},
        "8": {"decoded_token": "two", "logprob": -1.5, "rank": 2},
    }]
)  # fmt: skip
PROMPT_LOGPROBS = json.dumps([{"5": {"decoded_token": "a", "logprob": None, "rank": None}}])
TOOL = {"type": "function", "function": {"name": "call", "parameters": {"type": "object"}}}
CALL = '{"name": "call", "arguments": {"a": 1}}'

CHAT = {"messages": [{"role": "user", "content": "a"}]}
MESSAGES: dict[str, Any] = {
    **CHAT,
    "max_tokens": 9,
    "tools": [{"name": "call", "input_schema": {"type": "object"}}],
}
ASKED = {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]}
FUNCTION = {"type": "function", "name": "call", "parameters": {"type": "object"}, "strict": True}
CUSTOM = {"type": "custom", "name": "call", "format": {"type": "text"}}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
DETAILS = {"details": True, "decoder_input_details": True, "top_n_tokens": 1}
BEST = {"best_of": 2, "do_sample": True, "details": True}
# Bodies besides the example, that are answered.
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {**CHAT, **STREAM, "logprobs": True, "top_logprobs": 1}, {**CHAT, "stream": True},
        {**CHAT, "logprobs": True, "top_logprobs": 1, "n": 2}, {**CHAT, "tools": [TOOL]},
        {**CHAT, "tools": [TOOL], "stream": True},
    ],
    "/v1/messages": [
        {**CHAT, "max_tokens": 9, "stream": True}, {**MESSAGES, "stream": True}, MESSAGES,
    ],
    "/v1/messages/count_tokens": [{**CHAT, "tools": MESSAGES["tools"], "system": "b"}],
    "/api/chat": [
        {**CHAT, "stream": False, "logprobs": True, "top_logprobs": 1}, {"model": "words:latest"},
        {**CHAT, "tools": [TOOL]}, {**CHAT, "tools": [TOOL], "stream": False},
        {**CHAT, "logprobs": True},
    ],
    "/api/generate": [
        {"prompt": "a", "stream": False, "system": "b"}, {"prompt": "a", "raw": True},
        {"keep_alive": 0},
    ],
    "/api/embed": [{"input": ["a", "b"], "model": "vectors:latest"}, {"input": []}],
    "/api/embeddings": [{"prompt": ""}],
    "/api/show": [{"model": name} for name in (*MODELS, "words:latest", "poet")],
    "/v1/responses/input_tokens": [{**ASKED, "tools": [CUSTOM], "reasoning": {"effort": "low"}}],
    "/v1/responses": [
        {**ASKED, "stream": True}, {**ASKED, "tools": [FUNCTION], "parallel_tool_calls": False},
        {**ASKED, "tools": [FUNCTION], "stream": True, "reasoning": {"summary": "auto"}},
        {**ASKED, "tools": [CUSTOM], "stream": True, "model": "wordy"},
        {**ASKED, "include": ["message.output_text.logprobs"], "top_logprobs": 1, "stream": True},
        {**ASKED, "model": "wordy", "include": ["reasoning.encrypted_content"]},
    ],
    "/v1/completions": [
        {"prompt": ["a", "b"], "n": 2, "echo": True, "logprobs": 1}, {"prompt": "a", **STREAM},
        {"prompt": "a", "stream": True, "logprobs": 1},
    ],
    **dict.fromkeys(("/v1/audio/transcriptions", "/v1/audio/translations"), [
        {"file": "data:,", "response_format": kind}
        for kind in ("json", "text", "verbose_json", "srt", "vtt")
    ]),
    "/v1/embeddings": [{"input": ["a", "b"], "encoding_format": "base64"}],
    "/v1/rerank": [{"query": "a", "documents": ["a", {"text": "b"}], "return_documents": True}],
    "/v2/embed": [
        {"texts": ["a", "b"], "embedding_types": ["float", "int8", "uint8", "base64"]},
        {"texts": ["a"], "input_type": "search_query", "truncate": "NONE"},
    ],
    "/v1/score": [{"text_1": "a", "text_2": "b", "model": "vectors"}],
    "/predict": [
        {"inputs": [["a"], ["b"]]}, {"inputs": ["a", "b"], "model": "places"},
        {"inputs": "a", "ignore_labels": [], "aggregation_strategy": "max"},
    ],
    "/rerank": [
        {"query": "a", "texts": ["a", "b"], "return_text": True},
        {"query": "a", "documents": ["a"]},
    ],
    "/tokenize": [{"inputs": "a", "model": "words"}],
    "/generate": [
        {"inputs": "a", "parameters": DETAILS}, {"inputs": "a", "parameters": BEST},
    ],
    "/generate_stream": [{"inputs": "a", "parameters": {"top_n_tokens": 1}}],
    "/": [
        {"inputs": "a", "model": name, **stream}
        for name in MODELS
        for stream in ({}, *([{"stream": True}] if name == "words" else []))
        if name not in ("order", "speech")
    ] + [CHAT, {"prompt": "a"}, {"query": "a", "texts": ["b"]}],
    "/vertex": [{"instances": [{"inputs": "a", "model": name} for name in ("labels", "words")]}],
}  # fmt: skip


async def _embed(message: Any) -> Any:
    """Answers of encoders by model."""
    texts = next(one for one in message.inputs if one.name in ("text_input", "input_ids"))
    count = texts.shape[0]
    tokens = np.full((count, 1), 2)
    if message.model_name == "order":
        return response(score=np.arange(count, dtype=float)[:, None], num_input_tokens=tokens)
    if message.model_name == "labels":
        return response(score=np.full((count, 2), 0.5), num_input_tokens=tokens)
    if message.model_name == "places":
        is_alone = message.parameters["aggregation_strategy"].string_param != "max"
        places = {"index": np.ones(count)} if is_alone else {}
        return response(
            label=["PER"] * count, word=["a"] * count, score=np.full(count, 0.5), **places,
            start=np.zeros(count), end=np.ones(count), offsets=np.arange(count + 1),
            num_input_tokens=tokens,
        )  # fmt: skip
    if message.model_name == "entries":
        return response(
            indices=np.arange(count), values=np.full(count, 0.5), offsets=np.arange(count + 1),
            num_input_tokens=tokens,
        )  # fmt: skip
    vectors = np.full((count, 4), 0.5)
    rows = np.full((count, 2, 4), 0.5)
    return response(embedding=vectors, token_embedding=rows, num_input_tokens=tokens)


async def _generate(message: Any) -> AsyncIterator[Any]:
    """Two chunks, or a whole answer, with all that may come with it; a call if there are tools."""
    inputs = {
        one.name: raw for one, raw in zip(message.inputs, message.raw_input_contents, strict=True)
    }
    text = CALL if "tools" in inputs else "one"
    if message.model_name == "wordy":
        text = f"<think>a</think>{text}"
    more = {"logprobs": LOGPROBS, "prompt_logprobs": PROMPT_LOGPROBS}
    if message.model_name == "speech":
        yield _heard()
    elif inputs.get("stream") == b"\1":
        yield chunk(text, logprobs=LOGPROBS)
        yield chunk("", "stop")
    else:
        yield chunk(text, "stop", -0.5, **more)


def _heard() -> Any:
    """A transcript of one segment."""
    segment = {
        "id": 0, "seek": 0, "start": 0.0, "end": 1.5, "text": " one --> two", "tokens": [1, 2],
        "temperature": 0.0, "avg_logprob": -0.5, "compression_ratio": 1.0,
    }  # fmt: skip
    return response(
        text_output=["one"], segments=[json.dumps([segment])], language=["en"],
        duration=np.array([1.5]), num_output_tokens=np.array([2]),
    )  # fmt: skip


async def _breaks(message: Any) -> AsyncIterator[Any]:
    """A stream that fails after it has begun."""
    is_speech = message.model_name == "speech"
    yield _heard() if is_speech else chunk("one", logprobs=LOGPROBS)
    raise Refusal(CODE.INTERNAL, "broken")


async def _check(http: httpx.AsyncClient, route: Route, path: str, body: Any) -> httpx.Response:
    """Asks, and compares the answer with what the gateway says of the route."""
    description = closed((await http.get("/openapi.json")).json())
    operation = description["paths"][route.path][route.method.lower()]
    is_form = route.is_upload and "file" in body
    sent = {"files": {name: (None, value) for name, value in body.items()}} if is_form else {}
    answer = await http.request(route.method, path, **(sent or {"json": body}))
    content = response_of(description, operation, answer.status_code)["content"]
    kind = answer.headers["content-type"].split(";")[0]
    schema = {**content[kind]["schema"], "components": description["components"]}
    validator = Draft202012Validator(schema)
    if kind == "application/json":
        validator.validate(answer.json())
    if kind == LINES:
        for line in answer.text.splitlines():
            validator.validate(json.loads(line))
    if kind == "text/event-stream":
        lines = answer.text.splitlines()
        events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        assert events
        for event in events:
            if event != "[DONE]":
                validator.validate(json.loads(event))
    return answer


async def _paths(http: httpx.AsyncClient, route: Route) -> list[str]:
    """The route's path, for a model of each kind if it names one, or for a stored response."""
    if "{response_id}" in route.path:
        stored = (await http.post("/v1/responses", json={"input": "a"})).json()
        return [route.path.format(response_id=stored["id"])]
    if "{file_id}" in route.path:
        return [route.path.format(file_id=(await _upload(http))["id"])]
    if "{batch_id}" in route.path:
        asked = {"input_file_id": (await _upload(http))["id"], "endpoint": "/v1/embeddings"}
        made = await http.post("/v1/batches", json={**asked, "completion_window": "24h"})
        return [route.path.format(batch_id=made.json()["id"])]
    if "{model}" not in route.path:
        return [route.path]
    models = ("words",) if "/generate" in route.path else ("vectors",)
    return [route.path.format(model=name, version=1) for name in models]


# Those of administrators: ``test_admin_routes``.
OPEN = [route for route in ROUTES if route.answers and not route.admin]


@pytest.mark.parametrize("route", OPEN, ids=lambda r: r.method + r.path)
def test_answers_are_as_described(route: Route, tmp_path: Path) -> None:
    async def main() -> None:
        kept = {"batch_folder": str(tmp_path)}
        async with FakeTriton(MODELS) as triton, gateway(triton.address, **kept) as http:
            triton.embed, triton.generate, triton.told = _embed, _generate, TOLD
            for path in await _paths(http, route):
                for body in (route.example, *BODIES.get(route.path, ())):
                    if route.path == "/v1/batches" and body is not None:
                        body = {**body, "input_file_id": (await _upload(http))["id"]}
                    answer = await _check(http, route, path, body)
                    assert answer.status_code == 200, (body, answer.text)
                if route.kinds:
                    answer = await _check(
                        http, route, path, {"inputs": {}, "messages": 5, "model": 5}
                    )
                    assert answer.status_code >= 400, answer.text
            if {"text/event-stream", LINES} & route.answers.keys():
                triton.generate = _breaks
                for path in await _paths(http, route):
                    model = "speech" if "audio" in path else "words"
                    body = {**route.example, "stream": True, "model": model}
                    answer = await _check(http, route, path, body)
                    assert "broken" in answer.text

    asyncio.run(main())


def test_a_server_that_only_transcribes() -> None:
    """No server was ready, it said."""

    async def main() -> None:
        models = {"speech": MODELS["speech"]}
        async with FakeTriton(models) as triton, gateway(triton.address) as http:
            route = next(route for route in ROUTES if route.path == "/info")
            found = (await _check(http, route, "/info", None)).json()
            assert found["model_pipeline_tag"] == "automatic-speech-recognition"
            assert found["models"] == ["speech"]
            refused = await http.post("/", json={"inputs": "a"})
            assert "no model here can embed" in refused.text

    asyncio.run(main())


async def _upload(http: httpx.AsyncClient) -> dict[str, Any]:
    form = {"file": (None, "{}"), "purpose": (None, "batch")}
    found: dict[str, Any] = (await http.post("/v1/files", files=form)).json()
    return found

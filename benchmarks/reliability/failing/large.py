"""F5: one request that asks for as much as many; others are asked meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
from gateways import EMBEDDER, GENERATOR
from long_requests import running, wait_until
from serving import Serving

from failing.case import CHAT, EMBED, RERANKER, Case, post

_LIMIT = 300
_FEW: dict[str, Any] = {"model": GENERATOR, "prompt": ["a"] * 32, "max_tokens": 4}
_TOOL = {"type": "function", "function": {"name": "f", "description": "x" * 1_000_000}}
# What is asked, the route, the body.
_LARGE: Sequence[tuple[str, str, dict[str, Any]]] = (
    ("32 prompts with n 128", "/v1/completions", {**_FEW, "n": 128}),
    ("32 prompts with best_of 128", "/v1/completions", {**_FEW, "best_of": 128}),
    ("n 129", CHAT[0], {**CHAT[1], "n": 129}),
    ("32 prompts with num_beams 64", "/v1/completions",
     {**_FEW, "num_beams": 64, "use_beam_search": True}),
    ("logprobs 20 of 400 tokens", CHAT[0],
     {**CHAT[1], "logprobs": True, "top_logprobs": 20, "max_tokens": 400, "ignore_eos": True}),
    ("2,048 texts", "/v1/embeddings", {"model": EMBEDDER, "input": ["a reef in the tide"] * 2048}),
    ("2,049 texts", "/v1/embeddings", {"model": EMBEDDER, "input": ["a"] * 2049}),
    ("100,000 texts (TEI)", "/embed", {"model": EMBEDDER, "inputs": ["a"] * 100_000}),
    ("100,000 documents to rerank", "/v1/rerank",
     {"model": RERANKER, "query": "a", "documents": ["b"] * 100_000}),
    ("100,000 documents to rerank (TEI)", "/rerank",
     {"model": RERANKER, "query": "a", "texts": ["b"] * 100_000}),
    ("a tool of 1 MB", CHAT[0], {**CHAT[1], "tools": [_TOOL]}),
    ("100 tools of 10 KB", CHAT[0], {**CHAT[1], "tools": [
        {"type": "function", "function": {"name": f"f{i}", "description": "x" * 10_000}}
        for i in range(100)
    ]}),
    ("a schema of 20,000 properties", CHAT[0], {**CHAT[1], "response_format": {
        "type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": {
            "type": "object", "additionalProperties": False,
            "properties": {f"p{i}": {"type": "string"} for i in range(20_000)},
            "required": [f"p{i}" for i in range(20_000)],
        }},
    }}),
    ("a prompt of 5 MB", CHAT[0], {**CHAT[1], "messages": [
        {"role": "user", "content": "reef " * 1_000_000}
    ]}),
    ("a text of 5 MB, cut", "/embed",
     {"model": EMBEDDER, "inputs": "reef " * 1_000_000, "truncate": True}),
    ("1,000 stop strings of 1 KB", CHAT[0], {**CHAT[1], "stop": ["x" * 1000] * 1000}),
    ("a logit_bias of 40,000 tokens", CHAT[0],
     {**CHAT[1], "logit_bias": {str(i): 1 for i in range(40_000)}}),
)  # fmt: skip


def large(server: Serving) -> Iterator[Case]:
    """Each is counted as what it is; then a batch of lines that ask for too much."""
    idle = _probe_s(server, 10)
    for what, path, body in _LARGE:
        yield _one(server, what, path, body, idle)
    yield _lines(server)


def _one(server: Serving, what: str, path: str, body: dict[str, Any], idle: float) -> Case:
    stop, times, refused = threading.Event(), list[float](), Counter[str]()

    def probe() -> None:
        while not stop.is_set():
            began = time.monotonic()
            for asked in (EMBED, CHAT):
                answer = post(server, *asked)
                if answer.status_code != 200:
                    refused[str(answer.status_code)] += 1
            times.append(time.monotonic() - began)

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    began = time.monotonic()
    try:
        answer = post(server, path, body)
        status, text = answer.status_code, answer.text
    except httpx.TransportError as error:
        status, text = 599, repr(error)
    seconds = time.monotonic() - began
    stop.set()
    thread.join(60)
    # What is left of a request that was refused in part would run on.
    wait_until(lambda: running(server) == 0, lambda: f"{running(server)} still run")
    said = f"{status}: {_message(text)}" if status != 200 else "200"
    longest = max(times, default=0.0)
    others = f"{refused} of them refused" if refused else "none refused"
    return Case(
        "F5", what,
        f"{said} after {seconds:.1f} s; others meanwhile: longest {longest:.1f} s (idle "
        f"{idle:.1f}), {others}", seconds, status < 500 and not refused and longest < 20,
    )  # fmt: skip


def _message(text: str) -> str:
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return text[:_LIMIT]
    return str(error["message"] if isinstance(error, dict) else error)[:_LIMIT]


def _probe_s(server: Serving, count: int) -> float:
    """The longest of some pairs of probes."""
    found = []
    for _ in range(count):
        began = time.monotonic()
        for asked in (EMBED, CHAT):
            post(server, *asked).raise_for_status()
        found.append(time.monotonic() - began)
    return max(found)


def _lines(server: Serving) -> Case:
    """A batch whose lines ask for too much, among others: each has its own answer."""
    began = time.monotonic()
    bodies = [
        {**_FEW, "n": 128}, {**_FEW, "prompt": "a", "max_tokens": 4}, {**_FEW, "n": 1000},
        {**_FEW, "prompt": "a", "max_tokens": 4, "priority": -999},
    ]  # fmt: skip
    lines = [
        {"custom_id": str(at), "method": "POST", "url": "/v1/completions", "body": body}
        for at, body in enumerate(bodies)
    ]
    text = "\n".join(map(json.dumps, lines)).encode()
    with httpx.Client(base_url=server.url(), timeout=60) as client:
        file = client.post("/v1/files", data={"purpose": "batch"},
                           files={"file": ("lines.jsonl", text)}).json()["id"]  # fmt: skip
        batch = client.post("/v1/batches", json={
            "input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h",
        }).json()  # fmt: skip
        while batch["status"] not in ("completed", "failed", "expired", "cancelled"):
            time.sleep(0.3)
            batch = client.get(f"/v1/batches/{batch['id']}").json()
        counts = batch["request_counts"]
    return Case(
        "F5", "a batch of four lines, two of which ask for 32 × 128 and 32 × 1,000 answers",
        f"{batch['status']}: {counts['completed']} answered, {counts['failed']} refused",
        time.monotonic() - began, counts == {"total": 4, "completed": 2, "failed": 2},
    )  # fmt: skip

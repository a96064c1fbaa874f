"""The load of ``atoll bench`` and ``atoll profile``: perf_analyzer's, or our own client's."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from atoll.cli.options import key_metadata
from atoll.errors import ConfigError
from atoll.launcher.perf_analyzer import Load, PerfAnalyzer

if TYPE_CHECKING:
    from atoll_client import AsyncClient

_SENTENCE = "An atoll is a ring of coral that surrounds a lagoon and rises from the open sea. "
_QUERY = "What is an atoll?"


def texts(words: int, count: int = 16) -> list[str]:
    """Texts of about this many words; none is a prefix of another, so that no cache helps."""
    base = (_SENTENCE * (words // len(_SENTENCE.split()) + 1)).split()
    return [" ".join([f"{number}:", *base[: max(words - 1, 1)]]) for number in range(count)]


def rows(task: str, words: int, max_tokens: int) -> list[dict[str, Any]]:
    """Requests for perf_analyzer: tensor name -> its values, with their shape if the model's is
    variable.

    Raises:
        ConfigError: there is no load for this task.
    """
    many = texts(words)
    if task == "embed":
        return [{"text_input": [text]} for text in many]
    if task in ("sparse", "classify", "token_classify"):
        return [{"text_input": _column(text)} for text in many]
    if task in ("rerank", "multi_vector"):
        return [{"query": _column(_QUERY), "text_input": _column(text)} for text in many]
    if task == "generate":
        sampling = json.dumps(_sampling(max_tokens))
        return [
            {"text_input": [text], "stream": [True], "sampling_parameters": [sampling]}
            for text in many
        ]
    raise ConfigError(f"there is no load for task {task!r}")


def _target(url: str) -> str:
    """The target of a gRPC address, as gRPC expects it."""
    from atoll_client.address import parse_address

    return parse_address(url).target


def _column(text: str) -> dict[str, Any]:
    return {"content": [text], "shape": [1, 1]}


def measure(
    analyzer: PerfAnalyzer | None,
    url: str,
    model: str,
    task: str,
    *,
    concurrency: int,
    requests: int,
    words: int,
    max_tokens: int,
    timeout_s: float,
    key: str | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> Load:
    """Sends the load and returns the measurements; uses our own client if there is no analyzer.

    ``on_ready`` is called before the first request of our own load.
    """
    if analyzer is not None:
        return analyzer.run(
            _target(url), model, rows(task, words, max_tokens),
            concurrency=concurrency, requests=requests,
            streaming=task == "generate", timeout_s=timeout_s,
        )  # fmt: skip
    # Also refuses an unknown task.
    rows(task, words, max_tokens)
    from atoll_client import AsyncClient

    client = AsyncClient(url, timeout_s=timeout_s, retries=0, metadata=key_metadata(key))
    ask = partial(_ask, client, model, task, max_tokens)
    return asyncio.run(_own_load(client, ask, texts(words), concurrency, requests, on_ready))


async def _own_load(
    client: AsyncClient,
    ask: Callable[[str], Awaitable[tuple[float, int]]],
    asked: Sequence[str],
    concurrency: int,
    requests: int,
    on_ready: Callable[[], None],
) -> Load:
    latencies: list[float] = []
    firsts: list[float] = []
    responses = 0
    todo = iter(range(requests))
    async with client:
        # Looks up each model's task once.
        await client.models()
        on_ready()

        async def work() -> None:
            nonlocal responses
            for index in todo:
                began = time.perf_counter()
                first, count = await ask(asked[index % len(asked)])
                latencies.append(time.perf_counter() - began)
                firsts.append(first - began)
                responses += count

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        duration = time.perf_counter() - began
    return Load(tuple(sorted(latencies)), tuple(sorted(firsts)), responses, duration)


async def _ask(
    client: AsyncClient, model: str, task: str, max_tokens: int, text: str
) -> tuple[float, int]:
    """(time of the first response, responses) of one request."""
    if task == "generate":
        first, count = 0.0, 0
        async for _ in client.stream(text, model, **_sampling(max_tokens)):
            first = first or time.perf_counter()
            count += 1
        return first, count
    if task in ("rerank", "multi_vector"):
        await client.rerank(_QUERY, [text], model)
    else:
        call: dict[str, Any] = {
            "embed": client.embed, "sparse": client.embed_sparse, "classify": client.classify,
            "token_classify": client.classify_tokens,
        }  # fmt: skip
        await call[task]([text], model)
    return time.perf_counter(), 1


def _sampling(max_tokens: int) -> dict[str, Any]:
    return {"max_tokens": max_tokens, "ignore_eos": True, "temperature": 0}

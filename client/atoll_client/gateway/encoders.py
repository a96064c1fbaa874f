"""Embedding, scoring and tokenizing for every dialect: texts or token ids in, numbers out.

Long lists are split by what a model takes in one request, and the parts run at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from atoll_client import tasks
from atoll_client.errors import GenerationError, ValidationError
from atoll_client.gateway.http import Request
from atoll_client.messages import Parameters
from atoll_client.types import Embeddings, Floats, ModelInfo, SparseVector, TextToken

T = TypeVar("T")
Items = list[str] | list[list[int]]


@dataclass(frozen=True)
class Truncation:
    """How long inputs are cut; None: as the model is set."""

    truncate: bool | None = None
    direction: str | None = None
    prompt_name: str | None = None

    def parameters(self) -> dict[str, bool | str | None]:
        """As the models name them."""
        return {
            "truncate": self.truncate,
            "truncation_direction": self.direction.lower() if self.direction else None,
            "prompt_name": self.prompt_name,
        }


async def embed(
    request: Request, model: ModelInfo, items: Items, parameters: Parameters
) -> Embeddings:
    """Dense vectors of texts or token ids."""
    texts = await as_texts(request, model, items)
    pool = request.gateway.pool

    async def part(some: Sequence[str]) -> Embeddings:
        answer = await pool.infer(tasks.embed(model.name, some, parameters), request.metadata)
        return tasks.read_embeddings(answer)

    parts = await _in_parts(texts, model.max_client_batch_size, part)
    if len(parts) == 1:
        return parts[0]
    return Embeddings(
        np.concatenate([one.vectors for one in parts]),
        np.concatenate([one.num_tokens for one in parts]),
    )


async def embed_all(
    request: Request, model: ModelInfo, items: Items, parameters: Parameters
) -> list[Floats]:
    """A vector for each token, (tokens, width) for each text."""
    texts = await as_texts(request, model, items)
    pool = request.gateway.pool
    asked = {**parameters, "return_token_embeddings": True}

    async def part(some: Sequence[str]) -> list[Floats]:
        answer = await pool.infer(tasks.embed(model.name, some, asked), request.metadata)
        return tasks.read_token_vectors(answer)

    parts = await _in_parts(texts, model.max_client_batch_size, part)
    return [rows for part in parts for rows in part]


async def embed_sparse(
    request: Request, model: ModelInfo, items: Items, parameters: Parameters
) -> tuple[list[SparseVector], int]:
    """Sparse vectors, and how many tokens were read."""
    texts = await as_texts(request, model, items)
    pool = request.gateway.pool

    async def part(some: Sequence[str]) -> tuple[list[SparseVector], int]:
        answer = await pool.infer(tasks.embed(model.name, some, parameters), request.metadata)
        rows, counts = tasks.read_sparse(answer)
        return rows, int(counts.sum())

    parts = await _in_parts(texts, model.max_client_batch_size, part)
    return [row for rows, _ in parts for row in rows], sum(count for _, count in parts)


async def rerank(
    request: Request, model: ModelInfo, query: str, texts: Sequence[str], parameters: Parameters
) -> tuple[Floats, int]:
    """A score for each text, (texts,), and how many tokens were read."""
    pool = request.gateway.pool

    async def part(some: Sequence[str]) -> tuple[Floats, int]:
        answer = await pool.infer(
            tasks.rerank(model.name, query, some, parameters), request.metadata
        )
        scores, counts = tasks.read_scores(answer)
        return scores.reshape(-1), int(counts.sum())

    parts = await _in_parts(texts, model.max_client_batch_size, part)
    return _finite(np.concatenate([s for s, _ in parts])), sum(count for _, count in parts)


async def classify(
    request: Request,
    model: ModelInfo,
    pairs: Sequence[tuple[str, str | None]],
    parameters: Parameters,
) -> tuple[Floats, int]:
    """Scores of every label, (texts, labels), and how many tokens were read.

    Texts with and without a partner go in separate requests: a tensor has no gaps.
    """
    pool = request.gateway.pool

    async def part(some: Sequence[tuple[int, str, str | None]]) -> tuple[Any, Floats, int]:
        firsts = [first for _, first, _ in some]
        seconds = [second for _, _, second in some if second is not None] or None
        answer = await pool.infer(
            tasks.classify(model.name, firsts, seconds, parameters), request.metadata
        )
        scores, counts = tasks.read_scores(answer)
        return [index for index, _, _ in some], scores, int(counts.sum())

    rows = [(index, first, second) for index, (first, second) in enumerate(pairs)]
    groups = [[r for r in rows if r[2] is None], [r for r in rows if r[2] is not None]]
    limit = model.max_client_batch_size
    parts = [p for group in groups if group for p in await _in_parts(group, limit, part)]
    width = parts[0][1].shape[1]
    scores = np.empty((len(pairs), width), np.float32)
    for indices, found, _ in parts:
        scores[indices] = found
    return _finite(scores), sum(count for _, _, count in parts)


async def as_texts(request: Request, model: ModelInfo, items: Items) -> list[str]:
    """Token ids as text, as TEI reads them; texts as they are."""
    if items and isinstance(items[0], str):
        texts: Any = items
        return list(texts)
    return await decode(request, model, cast(list[list[int]], items), skip_special_tokens=True)


async def decode(
    request: Request, model: ModelInfo, ids: list[list[int]], *, skip_special_tokens: bool
) -> list[str]:
    """Texts of token ids, by the model's own tokenizer."""
    question = {"op": "decode", "ids": ids, "skip_special_tokens": skip_special_tokens}
    return cast(list[str], await request.gateway.pool.ask(model.name, question))


async def tokenize(
    request: Request, model: ModelInfo, texts: Sequence[str], add_special_tokens: bool = True
) -> list[list[TextToken]]:
    """Tokens of texts, by the model's own tokenizer."""
    question = {
        "op": "tokenize", "inputs": list(texts), "add_special_tokens": add_special_tokens,
    }  # fmt: skip
    answer = await request.gateway.pool.ask(model.name, question)
    return [[TextToken(**token) for token in row] for row in answer]


def check_batch(request: Request, count: int) -> None:
    """Raises ValidationError: more inputs than TEI's routes take."""
    limit = request.gateway.settings.max_client_batch_size
    request.labels["method"] = "batch" if count > 1 else "single"
    if count > limit:
        request.labels["failure"] = "batch_size"
        raise ValidationError(f"batch size {count} > maximum allowed batch size {limit}")


def timing_headers(
    request: Request, server_started: float, num_tokens: int, num_characters: int
) -> dict[str, str]:
    """TEI's headers, in milliseconds. Times inside the server are in /metrics, not here."""
    now = time.perf_counter()
    total, server = 1000 * (now - request.started), 1000 * (now - server_started)
    return {
        "x-compute-type": "triton",
        "x-compute-time": f"{total:.0f}",
        "x-compute-characters": str(num_characters),
        "x-compute-tokens": str(num_tokens),
        "x-total-time": f"{total:.0f}",
        "x-inference-time": f"{server:.0f}",
    }


def _finite(scores: Floats) -> Floats:
    if not np.isfinite(scores).all():
        raise GenerationError("score is NaN")
    return scores


async def _in_parts(
    items: Sequence[Any], limit: int, call: Callable[[Sequence[Any]], Awaitable[T]]
) -> list[T]:
    if len(items) <= limit:
        return [await call(items)]
    parts = [items[at : at + limit] for at in range(0, len(items), limit)]
    return list(await asyncio.gather(*(call(part) for part in parts)))

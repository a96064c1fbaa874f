"""Embedding and scoring for every dialect: texts or token ids in, numbers out.

Long lists are split by what a model takes in one request, and the parts run at once. Token ids go
to the model as they are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import numpy as np

from atoll_client import tasks
from atoll_client.batching import in_parts
from atoll_client.errors import GenerationError, TooMuch, ValidationError
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.schemas import Inputs, batch
from atoll_client.gateway.core.web import Request
from atoll_client.types import Embeddings, Floats, ModelInfo, SparseVector

T = TypeVar("T")
Items = list[str] | list[list[int]]
Parameters = dict[str, Any]
# TEI's own.
DEFAULT_BATCH_LIMIT = 32
# Scores are made here: in float32 they may all be the same.
_RAW = {"raw_scores": True}


def truncation(truncate: bool | None, direction: str | None, prompt_name: str | None) -> Parameters:
    """How inputs are cut and which prompt they get, as the models name it; None: their own."""
    return {
        "truncate": truncate,
        "truncation_direction": direction.lower() if direction else None,
        "prompt_name": prompt_name,
    }


async def embed(
    request: Request, context: Context, model: ModelInfo, items: Items, parameters: Parameters
) -> Embeddings:
    """Dense vectors of texts or token ids."""
    pool = context.pool

    async def part(some: Sequence[Any]) -> Embeddings:
        answer = await pool.infer(tasks.embed(model.name, some, parameters), request.metadata)
        return tasks.read_embeddings(answer)

    parts = await in_parts(items, model.max_client_batch_size, False, part)
    if len(parts) == 1:
        return parts[0]
    return Embeddings(
        np.concatenate([one.vectors for one in parts]),
        np.concatenate([one.num_tokens for one in parts]),
    )


async def embed_all(
    request: Request, context: Context, model: ModelInfo, items: Items, parameters: Parameters
) -> list[Floats]:
    """A vector for each token, (tokens, width) for each text."""
    pool = context.pool
    asked = {**parameters, "return_token_embeddings": True}

    async def part(some: Sequence[Any]) -> list[Floats]:
        answer = await pool.infer(tasks.embed(model.name, some, asked), request.metadata)
        return tasks.read_token_vectors(answer)

    parts = await in_parts(items, model.max_client_batch_size, False, part)
    return [rows for part in parts for rows in part]


async def embed_sparse(
    request: Request, context: Context, model: ModelInfo, items: Items, parameters: Parameters
) -> tuple[list[SparseVector], int]:
    """Sparse vectors, and how many tokens were read."""
    pool = context.pool

    async def part(some: Sequence[Any]) -> tuple[list[SparseVector], int]:
        answer = await pool.infer(tasks.embed(model.name, some, parameters), request.metadata)
        rows, counts = tasks.read_sparse(answer)
        return rows, int(counts.sum())

    parts = await in_parts(items, model.max_client_batch_size, False, part)
    return [row for rows, _ in parts for row in rows], sum(count for _, count in parts)


async def rerank(
    request: Request,
    context: Context,
    model: ModelInfo,
    query: str | Sequence[str],
    texts: Sequence[str],
    parameters: Parameters,
) -> tuple[Floats, int]:
    """Logits (texts, 1), and how many tokens were read; several queries: one for each text."""
    pool = context.pool
    queries = [query] * len(texts) if isinstance(query, str) else query

    async def part(some: Sequence[tuple[str, str]]) -> tuple[Floats, int]:
        firsts = query if isinstance(query, str) else [first for first, _ in some]
        message = tasks.rerank(model.name, firsts, [text for _, text in some], parameters | _RAW)
        logits, counts = tasks.read_scores(await pool.infer(message, request.metadata))
        return logits, int(counts.sum())

    rows = list(zip(queries, texts, strict=True))
    parts = await in_parts(rows, model.max_client_batch_size, False, part)
    return _finite(np.concatenate([s for s, _ in parts])), sum(count for _, count in parts)


async def classify(
    request: Request,
    context: Context,
    model: ModelInfo,
    pairs: Sequence[tuple[str, str | None]],
    parameters: Parameters,
) -> tuple[Floats, int]:
    """Logits of every label, (texts, labels), and how many tokens were read.

    Texts with and without a partner go in separate requests: a tensor has no gaps.
    """
    pool = context.pool

    async def part(some: Sequence[tuple[int, str, str | None]]) -> tuple[Any, Floats, int]:
        firsts = [first for _, first, _ in some]
        seconds = [second for _, _, second in some if second is not None] or None
        message = tasks.classify(model.name, firsts, seconds, parameters | _RAW)
        logits, counts = tasks.read_scores(await pool.infer(message, request.metadata))
        return [index for index, _, _ in some], logits, int(counts.sum())

    rows = [(index, first, second) for index, (first, second) in enumerate(pairs)]
    groups = [[r for r in rows if r[2] is None], [r for r in rows if r[2] is not None]]
    limit = model.max_client_batch_size
    calls = [in_parts(group, limit, False, part) for group in groups if group]
    parts = [found for group in await asyncio.gather(*calls) for found in group]
    width = parts[0][1].shape[1]
    logits = np.empty((len(pairs), width), np.float32)
    for indices, found, _ in parts:
        logits[indices] = found
    return _finite(logits), sum(count for _, _, count in parts)


def read_items(model: ModelInfo, inputs: Inputs, field: str = "inputs") -> Items:
    """Texts, or lists of token ids.

    Raises:
        EmptyInputError: nothing, or an empty one. ValidationError: an id that the model lacks.
    """
    items: Any
    items, is_single = batch(inputs, field)
    size = int(model.facts.get("num_token_ids") or model.facts.get("vocab_size") or 2**31)
    for row, item in enumerate(items):
        if isinstance(item, str):
            continue
        wrong = next((at for at, token in enumerate(item) if not 0 <= token < size), None)
        if wrong is not None:
            place = f"{field}[{wrong}]" if is_single else f"{field}[{row}][{wrong}]"
            raise ValidationError(
                f"`{place}` is {item[wrong]}, outside the vocabulary: the model's token ids are 0 "
                f"to {size - 1}",
                param=field, code="invalid_token_id",
            )  # fmt: skip
    return cast(Items, items)


def batch_limit(context: Context, model: ModelInfo | None) -> int:
    """Texts in one request on TEI's routes: the gateway's own setting, else the model's."""
    own = context.settings.max_client_batch_size
    of_model = model.facts.get("client_batch_limit") if model is not None else None
    return own or int(of_model or DEFAULT_BATCH_LIMIT)


def check_batch(
    request: Request,
    context: Context,
    count: int,
    model: ModelInfo | None = None,
    field: str | None = None,
) -> None:
    """Raises TooMuch: more inputs than TEI's routes take. model: None if there are several.

    field: that holds them.
    """
    limit = batch_limit(context, model)
    request.labels["method"] = "batch" if count > 1 else "single"
    if count > limit:
        request.labels["failure"] = "batch_size"
        raise TooMuch(f"batch size {count} > maximum allowed batch size {limit}", param=field)


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

"""Text Embeddings Inference's routes, with its shapes, statuses and messages."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from atoll_client import scores, tasks
from atoll_client.errors import EmptyInputError, UnsupportedModel, ValidationError
from atoll_client.gateway.core import encoders, tokens
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.encoders import check_batch, read_items, timing_headers
from atoll_client.gateway.core.schemas import batch
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.tei.errors import exact_messages
from atoll_client.gateway.tei.schemas import (
    DecodeBody,
    EmbedAllBody,
    EmbedBody,
    EmbedSparseBody,
    PredictBody,
    RerankBody,
    SimilarityBody,
    TokenizeBody,
    Vectors,
)
from atoll_client.scores import Scores
from atoll_client.types import Floats, ModelInfo


async def embed(request: Request, context: Context, body: EmbedBody) -> Reply:
    """One vector for each text, in a list also for a single one."""
    model = context.find(request, body.model, ("embed",))
    items = _items(request, context, model, body)
    check_dimensions(model, body.dimensions)
    began = time.perf_counter()
    parameters = _embed_parameters(body)
    with exact_messages(model):
        found = await encoders.embed(request, context, model, items, parameters)
    headers = timing_headers(request, began, sum(found.num_tokens.tolist()), _characters(items))
    return reply(found.vectors, headers)


async def embed_all(request: Request, context: Context, body: EmbedAllBody) -> Reply:
    """One vector for each token of each text, special tokens included."""
    model = context.find(request, body.model, ("embed",))
    items = _items(request, context, model, body)
    began = time.perf_counter()
    with exact_messages(model):
        rows = await encoders.embed_all(request, context, model, items, body.cut())
    return reply(rows, timing_headers(request, began, sum(map(len, rows)), _characters(items)))


async def embed_sparse(request: Request, context: Context, body: EmbedSparseBody) -> Reply:
    """One list of index and value for each text."""
    model = context.find(request, body.model, ("sparse",))
    items = _items(request, context, model, body)
    began = time.perf_counter()
    with exact_messages(model):
        rows, count = await encoders.embed_sparse(request, context, model, items, body.cut())
    headers = timing_headers(request, began, count, _characters(items))
    pairs = [
        [{"index": i, "value": v} for i, v in zip(*map(np.ndarray.tolist, row), strict=True)]
        for row in rows
    ]
    return reply(pairs, headers)


async def predict(request: Request, context: Context, body: PredictBody) -> Reply:
    """Labels with scores, the best first; nested if the inputs are a batch."""
    model = context.find(request, body.model, ("classify", "rerank"))
    pairs, is_single = pairs_of(body.inputs)
    check_batch(request, context, len(pairs), model)
    began = time.perf_counter()
    found, count = await scored(request, context, model, pairs, body)
    headers = timing_headers(request, began, count, sum(len(a) + len(b or "") for a, b in pairs))
    labelled = [labels_of(model, row) for row in found]
    return reply(labelled[0] if is_single else labelled, headers)


async def rerank(request: Request, context: Context, body: RerankBody) -> Reply:
    """Scores of texts for a query, the best first."""
    model = context.find(request, body.model, ("rerank",))
    if not body.texts:
        raise EmptyInputError("`texts` cannot be empty")
    if not body.query:
        raise EmptyInputError("`inputs` cannot be empty")
    check_batch(request, context, len(body.texts), model)
    began = time.perf_counter()
    with exact_messages(model):
        found, count = await ranked(
            request, context, model, body.query, body.texts, body.cut(), body.raw_scores
        )
    size = len(body.query) + sum(map(len, body.texts))
    ranks: list[dict[str, Any]] = [{"index": i, "score": found.values[i]} for i in found.order]
    if body.return_text:
        for rank in ranks:
            rank["text"] = body.texts[rank["index"]]
    return reply(ranks, timing_headers(request, began, count, size))


async def similarity(request: Request, context: Context, body: SimilarityBody) -> Reply:
    """Cosine of each sentence with the source."""
    model = context.find(request, body.model, ("embed",))
    if not body.inputs.sentences:
        raise EmptyInputError("`inputs.sentences` cannot be empty")
    texts, _ = batch([body.inputs.source_sentence, *body.inputs.sentences])
    check_batch(request, context, len(texts), model)
    began = time.perf_counter()
    with exact_messages(model):
        found = await encoders.embed(request, context, model, texts, body.parameters.cut())
    headers = timing_headers(request, began, sum(found.num_tokens.tolist()), _characters(texts))
    return reply(tasks.cosine(found.vectors), headers)


async def tokenize(request: Request, context: Context, body: TokenizeBody) -> Reply:
    """Tokens of each text; start and stop count bytes."""
    model = context.find(request, body.model, (*tasks.ENCODER_TASKS, "generate"))
    texts, _ = batch(body.inputs)
    prompt = ""
    if body.prompt_name is not None:
        prompt = prompt_of(model, body.prompt_name)
    texts = [prompt + str(text) for text in texts]
    tokens.check_length(model, texts)
    return Reply(await tokens.tokenized(context, model, texts, body.add_special_tokens))


async def decode(request: Request, context: Context, body: DecodeBody) -> Reply:
    """A text for each list of ids."""
    model = context.find(request, body.model, (*tasks.ENCODER_TASKS, "generate"))
    ids, _ = batch(body.ids, "ids")
    rows: Any = ids
    return reply(
        await tokens.decode(context, model, rows, skip_special_tokens=body.skip_special_tokens)
    )


async def ranked(
    request: Request,
    context: Context,
    model: ModelInfo,
    query: str | list[str],
    texts: list[str],
    parameters: encoders.Parameters,
    is_raw: bool = False,
) -> tuple[Scores, int]:
    """A reranker's scores of texts, or of pairs, and how many tokens were read."""
    logits, count = await encoders.rerank(request, context, model, query, texts, parameters)
    return scores.of_texts(logits, scores.activation_of(model, 1, is_raw)), count


async def scored(
    request: Request,
    context: Context,
    model: ModelInfo,
    pairs: list[tuple[str, str | None]],
    body: PredictBody,
) -> tuple[list[Scores], int]:
    """Scores of every label, by a classifier or by a reranker, which takes pairs only."""
    logits, count = await logits_of(request, context, model, pairs, body)
    activation = scores.activation_of(model, logits.shape[-1], body.raw_scores)
    return scores.of_labels(logits, activation), count


async def logits_of(
    request: Request,
    context: Context,
    model: ModelInfo,
    pairs: list[tuple[str, str | None]],
    body: PredictBody,
) -> tuple[Floats, int]:
    """What ``scored`` makes scores of, (texts, labels)."""
    if body.prompt_name is not None:
        if any(second is not None for _, second in pairs):
            raise ValidationError("`prompt_name` cannot be set with dual inputs")
        prompt = prompt_of(model, body.prompt_name)
        pairs = [(prompt + first, None) for first, _ in pairs]
    parameters = {**body.cut(), "prompt_name": None}
    with exact_messages(model):
        if model.task == "classify":
            return await encoders.classify(request, context, model, pairs, parameters)
        seconds = [second for _, second in pairs if second is not None]
        if len(seconds) < len(pairs):
            raise UnsupportedModel(
                f"model {model.name!r} scores pairs; a classifier of single texts with one "
                "label is served with task=classify"
            )
        firsts = [first for first, _ in pairs]
        return await encoders.rerank(request, context, model, firsts, seconds, parameters)


def labels_of(model: ModelInfo, found: Scores) -> list[dict[str, Any]]:
    """Labels with scores, the best first; equal ones in the model's order."""
    return [{"score": one.score, "label": one.label} for one in tasks.labelled(model, found)]


def prompt_of(model: ModelInfo, name: str) -> str:
    """The text behind a prompt's name."""
    if name not in model.prompts:
        known = ", ".join(sorted(model.prompts)) or "none"
        raise ValidationError(
            f"`prompt_name` is {name!r}; the model has: {known}", param="prompt_name"
        )
    return model.prompts[name]


def check_prompt(model: ModelInfo, items: encoders.Items, name: str | None) -> None:
    """Raises ValidationError: the model has no such prompt, or the inputs are token ids."""
    if name is None:
        return
    prompt_of(model, name)
    if not isinstance(items[0], str):
        raise ValidationError(
            "`prompt_name` cannot be set with token ids, which are taken as they are",
            param="prompt_name",
        )


def check_dimensions(model: ModelInfo, dimensions: int | None) -> None:
    """Raises ValidationError, in TEI's words."""
    if dimensions is None:
        return
    if dimensions < 1:
        raise ValidationError("`dimensions` should be positive", param="dimensions")
    width = int(model.facts.get("dimensions") or dimensions)
    if dimensions > width:
        raise ValidationError(
            f"`dimensions` should be smaller than the maximum embedding dimension {width}. "
            f"Given: {dimensions}",
            param="dimensions",
        )


def _items(request: Request, context: Context, model: ModelInfo, body: Vectors) -> encoders.Items:
    items = read_items(model, body.inputs)
    check_batch(request, context, len(items), model)
    check_prompt(model, items, body.prompt_name)
    return items


def _embed_parameters(body: EmbedBody) -> dict[str, Any]:
    return {
        **body.cut(),
        "normalize": None if body.normalize else False,
        "dimensions": body.dimensions,
    }


def pairs_of(
    inputs: str | list[str] | list[list[str]],
) -> tuple[list[tuple[str, str | None]], bool]:
    """Texts with their partners, and whether it was a single one. ``[a, b]`` is one pair."""
    if isinstance(inputs, str):
        rows: list[list[str]] = [[inputs]]
        is_single = True
    else:
        is_single = bool(inputs) and isinstance(inputs[0], str)
        rows = [[str(text) for text in inputs]] if is_single else [list(row) for row in inputs]
    if not rows or any(not any(row) for row in rows):
        raise EmptyInputError("`inputs` cannot be empty")
    if any(len(row) > 2 for row in rows):
        raise ValidationError("`inputs` must be one text, a pair, or a list of those")
    return [(row[0], row[1] if len(row) == 2 else None) for row in rows], is_single


def _characters(items: encoders.Items) -> int:
    return sum(map(len, items))

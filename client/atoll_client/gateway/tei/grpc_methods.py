"""What each ``tei.v1`` method does: a message in, a message out."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from atoll_client import tasks
from atoll_client.errors import EmptyInputError, NotReady, ValidationError
from atoll_client.gateway.core import encoders, tokens
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.encoders import Parameters, check_batch, truncation
from atoll_client.gateway.core.web import Request
from atoll_client.gateway.tei import routes as tei
from atoll_client.gateway.tei import schemas as tei_body
from atoll_client.gateway.tei.errors import exact_messages
from atoll_client.gateway.tei.grpc_schema import Schema
from atoll_client.types import ModelInfo

_ANY = (*tasks.ENCODER_TASKS, "generate")
_MODEL_TYPES = {
    "embed": "MODEL_TYPE_EMBEDDING", "sparse": "MODEL_TYPE_EMBEDDING",
    "classify": "MODEL_TYPE_CLASSIFIER", "rerank": "MODEL_TYPE_RERANKER",
}  # fmt: skip


def methods(schema: Schema) -> dict[str, Callable[[Request, Context, Any], Awaitable[Any]]]:
    """The unary methods by name; streams repeat them."""
    found = {
        "Info": info, "Embed": embed, "EmbedSparse": embed_sparse, "EmbedAll": embed_all,
        "Predict": predict, "PredictPair": predict, "Rerank": rerank,
        "Tokenize": tokenize, "Decode": decode,
    }  # fmt: skip
    return {name: partial(method, schema) for name, method in found.items()}


async def info(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """Facts of the encoder that is named, else of the first one served."""
    models = context.models
    model = models.named(request.model) if request.model else models.default(_ANY)
    if model is None:
        raise NotReady("no server is ready")
    facts = model.facts
    return schema["InfoResponse"](
        version=str(facts.get("version") or ""),
        model_id=model.public_id,
        model_sha=facts.get("revision"),
        model_dtype=str(facts.get("dtype") or ""),
        model_type=_MODEL_TYPES.get(model.task),
        max_concurrent_requests=facts.get("max_concurrent_requests"),
        max_input_length=model.max_input_tokens,
        max_batch_tokens=facts.get("max_batch_tokens"),
        max_batch_requests=facts.get("max_batch_requests"),
        max_client_batch_size=encoders.batch_limit(context, model),
        tokenization_workers=facts.get("tokenization_workers"),
    )


async def embed(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """One vector; as in every proto3 message, ``normalize`` is false unless it is set."""
    model = context.find(request, None, ("embed",))
    dimensions = message.dimensions if message.HasField("dimensions") else None
    tei.check_dimensions(model, dimensions)
    parameters = {
        **_truncation(message),
        "normalize": None if message.normalize else False,
        "dimensions": dimensions,
    }
    began = time.perf_counter()
    with exact_messages(model):
        found = await encoders.embed(request, context, model, _texts(message.inputs), parameters)
    metadata = _metadata(schema, request, began, sum(found.num_tokens.tolist()), message.inputs)
    return schema["EmbedResponse"](embeddings=found.vectors[0].tolist(), metadata=metadata)


async def embed_sparse(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """The entries of one sparse vector."""
    model = context.find(request, None, ("sparse",))
    began = time.perf_counter()
    with exact_messages(model):
        (row,), count = await encoders.embed_sparse(
            request, context, model, _texts(message.inputs), _truncation(message)
        )
    pairs = zip(*map(np.ndarray.tolist, row), strict=True)
    return schema["EmbedSparseResponse"](
        sparse_embeddings=[{"index": index, "value": value} for index, value in pairs],
        metadata=_metadata(schema, request, began, count, message.inputs),
    )


async def embed_all(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """One vector for each token."""
    model = context.find(request, None, ("embed",))
    began = time.perf_counter()
    with exact_messages(model):
        (rows,) = await encoders.embed_all(
            request, context, model, _texts(message.inputs), _truncation(message)
        )
    return schema["EmbedAllResponse"](
        token_embeddings=[{"embeddings": row} for row in rows.tolist()],
        metadata=_metadata(schema, request, began, len(rows), message.inputs),
    )


async def predict(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """Labels of a text or of a pair, the best first."""
    model = context.find(request, None, ("classify", "rerank"))
    inputs = message.inputs if isinstance(message.inputs, str) else list(message.inputs)
    if not isinstance(inputs, str) and len(inputs) != 2:
        raise ValidationError(f"`inputs` must hold 2 texts. Given: {len(inputs)}")
    body = tei_body.PredictBody(
        inputs=inputs,
        raw_scores=message.raw_scores,
        truncate=message.truncate,
        truncation_direction=_direction(message),
    )
    pairs, _ = tei.pairs_of(inputs)
    began = time.perf_counter()
    found, count = await tei.scored(request, context, model, pairs, body)
    return schema["PredictResponse"](
        predictions=tei.labels_of(model, found[0]),
        metadata=_metadata(schema, request, began, count, *filter(None, pairs[0])),
    )


async def rerank(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """Texts by score."""
    return await _ranked(schema, request, context, message, list(message.texts))


async def rerank_rows(
    schema: Schema, request: Request, context: Context, rows: Sequence[Any]
) -> Any:
    """Texts by score, one from each message of a stream; the first one's options count."""
    if not rows:
        raise EmptyInputError("`texts` cannot be empty")
    return await _ranked(schema, request, context, rows[0], [row.text for row in rows])


async def tokenize(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """Tokens of one text; start and stop count bytes."""
    model = context.find(request, None, _ANY)
    (text,) = _texts(message.inputs)
    if message.HasField("prompt_name"):
        text = tei.prompt_of(model, message.prompt_name) + text
    tokens.check_length(model, [text])
    rows = await tokens.tokenize(context, model, [text], message.add_special_tokens)
    return await tokens.apart(
        [text], lambda: schema["EncodeResponse"](tokens=tokens.in_bytes([text], rows)[0])
    )


async def decode(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """The text of token ids."""
    model = context.find(request, None, _ANY)
    if not message.ids:
        raise EmptyInputError("`ids` cannot be empty")
    (text,) = await tokens.decode(
        context, model, [list(message.ids)], skip_special_tokens=message.skip_special_tokens
    )
    return schema["DecodeResponse"](text=text)


async def _ranked(
    schema: Schema, request: Request, context: Context, message: Any, texts: list[str]
) -> Any:
    model: ModelInfo = context.find(request, None, ("rerank",))
    if not texts:
        raise EmptyInputError("`texts` cannot be empty")
    if not message.query or not all(texts):
        raise EmptyInputError("`inputs` cannot be empty")
    check_batch(request, context, len(texts), model)
    began = time.perf_counter()
    with exact_messages(model):
        found, count = await tei.ranked(
            request, context, model, message.query, texts, _truncation(message), message.raw_scores
        )  # fmt: skip
    ranks = [
        {
            "index": i,
            "score": found.values[i],
            **({"text": texts[i]} if message.return_text else {}),
        }
        for i in found.order
    ]
    metadata = _metadata(schema, request, began, count, message.query, *texts)
    return schema["RerankResponse"](ranks=ranks, metadata=metadata)


def _texts(text: str) -> list[str]:
    if not text:
        raise EmptyInputError("`inputs` cannot be empty")
    return [text]


def _direction(message: Any) -> Any:
    """Right is what proto3 leaves out, so that it cannot be told from nothing: the model's own."""
    return "Left" if message.truncation_direction else None


def _truncation(message: Any) -> Parameters:
    names = message.DESCRIPTOR.fields_by_name
    has_prompt = "prompt_name" in names and message.HasField("prompt_name")
    return truncation(
        message.truncate, _direction(message), message.prompt_name if has_prompt else None
    )


def _metadata(schema: Schema, request: Request, began: float, num_tokens: int, *texts: str) -> Any:
    """What it took. Times inside the server are in its metrics, not here."""
    now = time.perf_counter()
    return schema["Metadata"](
        compute_chars=sum(map(len, texts)),
        compute_tokens=num_tokens,
        total_time_ns=int(1e9 * (now - request.started)),
        inference_time_ns=int(1e9 * (now - began)),
    )

"""The methods of ``tei.v1``: a message in, a message out."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from atoll_client import tasks
from atoll_client.errors import EmptyInputError, NotFound, NotReady, ValidationError
from atoll_client.gateway.core import encoders, tokens
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.encoders import Encoder
from atoll_client.gateway.core.schemas import batch
from atoll_client.gateway.core.web import Request
from atoll_client.gateway.tei import inference, schemas
from atoll_client.gateway.tei.grpc_schema import Schema

_MODEL_TYPES = {
    "embed": "MODEL_TYPE_EMBEDDING", "sparse": "MODEL_TYPE_EMBEDDING",
    "multi_vector": "MODEL_TYPE_EMBEDDING", "classify": "MODEL_TYPE_CLASSIFIER",
    "rerank": "MODEL_TYPE_RERANKER", "token_classify": "MODEL_TYPE_CLASSIFIER",
}  # fmt: skip


def methods(schema: Schema) -> dict[str, Callable[[Request, Context, Any], Awaitable[Any]]]:
    """The unary methods by name; streams call them for each message."""
    found = {
        "Info": info, "Embed": embed, "EmbedSparse": embed_sparse, "EmbedAll": embed_all,
        "Predict": predict, "PredictPair": predict, "Rerank": rerank,
        "Tokenize": tokenize, "Decode": decode,
    }  # fmt: skip
    return {name: partial(method, schema) for name, method in found.items()}


async def info(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """Facts about the named model, else about the first one."""
    models = context.models
    model = models.named(request.model) if request.model else models.default(tasks.ANY_TASK)
    if model is None and request.model and context.pool.is_ready:
        raise NotFound(f"model {request.model!r} is not served")
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
    """One vector. As in every proto3 message, ``normalize`` is false unless it is set."""
    dimensions = message.dimensions if message.HasField("dimensions") else None
    body = schemas.EmbedBody(normalize=message.normalize, dimensions=dimensions, **_fields(message))
    found = await inference.vectors(request, context, body)
    metadata = _metadata(schema, request, sum(found.num_tokens.tolist()), message.inputs)
    return schema["EmbedResponse"](embeddings=found.vectors[0].tolist(), metadata=metadata)


async def embed_sparse(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """The entries of one sparse vector."""
    body = schemas.EmbedSparseBody(**_fields(message))
    (row,), count = await inference.sparse_vectors(request, context, body)
    metadata = _metadata(schema, request, count, message.inputs)
    return schema["EmbedSparseResponse"](sparse_embeddings=row, metadata=metadata)


async def embed_all(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """One vector for each token."""
    body = schemas.EmbedAllBody(**_fields(message))
    (rows,), count = await inference.token_vectors(request, context, body)
    return schema["EmbedAllResponse"](
        token_embeddings=[{"embeddings": row} for row in rows.tolist()],
        metadata=_metadata(schema, request, count, message.inputs),
    )


async def predict(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """Labels of a text or of a pair, best first."""
    model = context.find(request, None, ("classify", "rerank"))
    inputs = message.inputs if isinstance(message.inputs, str) else list(message.inputs)
    if not isinstance(inputs, str) and len(inputs) != 2:
        raise ValidationError(f"`inputs` must hold 2 texts. Given: {len(inputs)}")
    body = schemas.PredictBody(inputs=inputs, raw_scores=message.raw_scores, **_truncation(message))
    pairs, _ = inference.pairs_of(inputs)
    found, count = await inference.scored(Encoder(request, context, model), pairs, body)
    return schema["PredictResponse"](
        predictions=inference.labels_of(model, found[0]),
        metadata=_metadata(schema, request, count, *filter(None, pairs[0])),
    )


async def rerank(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """Texts by score."""
    return await _ranked(schema, request, context, message, list(message.texts))


async def rerank_rows(
    schema: Schema, request: Request, context: Context, rows: Sequence[Any]
) -> Any:
    """Texts by score, one from each message of a stream, with the options of the first."""
    if not rows:
        raise EmptyInputError("`texts` cannot be empty")
    query = rows[0].query
    other = next((row.query for row in rows if row.query not in ("", query)), None)
    if other is not None:
        raise ValidationError.of(
            "query", f"is {other!r:.80} after {query!r:.80}; a stream ranks texts for one query"
        )
    return await _ranked(schema, request, context, rows[0], [row.text for row in rows])


async def tokenize(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """Tokens of one text, with byte offsets."""
    model = context.find(request, None, tasks.ANY_TASK)
    text: str = message.inputs
    batch(text)
    if message.HasField("prompt_name"):
        text = inference.prompt_of(model, message.prompt_name) + text
    tokens.check_length(model, [text])
    rows = await tokens.tokenize(context, model, [text], message.add_special_tokens)
    return await tokens.run_in_thread(
        [text], lambda: schema["EncodeResponse"](tokens=tokens.in_bytes([text], rows)[0])
    )


async def decode(schema: Schema, request: Request, context: Context, message: Any) -> Any:
    """The text of token ids."""
    model = context.find(request, None, tasks.ANY_TASK)
    if not message.ids:
        raise EmptyInputError("`ids` cannot be empty")
    (text,) = await tokens.decode(
        context, model, [list(message.ids)], skip_special_tokens=message.skip_special_tokens
    )
    return schema["DecodeResponse"](text=text)


async def _ranked(
    schema: Schema, request: Request, context: Context, message: Any, texts: list[str]
) -> Any:
    body = schemas.RerankBody(
        query=message.query,
        texts=texts,
        raw_scores=message.raw_scores,
        return_text=message.return_text,
        **_truncation(message),
    )
    ranks, count = await inference.ranked_texts(request, context, body)
    metadata = _metadata(schema, request, count, message.query, *texts)
    return schema["RerankResponse"](ranks=ranks, metadata=metadata)


def _truncation(message: Any) -> dict[str, Any]:
    """Fields of a body. proto3 cannot tell "right" from nothing, which is the model's default."""
    number = message.truncation_direction
    if number not in (0, 1):  # proto3 passes on the numbers that an enum lacks
        raise ValidationError.of("truncation_direction", f"is {number}; expected 0 or 1")
    direction = "Left" if number else None
    return {"truncate": message.truncate, "truncation_direction": direction}


def _fields(message: Any) -> dict[str, Any]:
    """Fields of a body with a text and a prompt."""
    prompt_name = message.prompt_name if message.HasField("prompt_name") else None
    return {"inputs": message.inputs, "prompt_name": prompt_name, **_truncation(message)}


def _metadata(schema: Schema, request: Request, num_tokens: int, *texts: str) -> Any:
    """Counts and times. Times inside the server are in its metrics, not here."""
    now = time.perf_counter()
    return schema["Metadata"](
        compute_chars=sum(map(len, texts)),
        compute_tokens=num_tokens,
        total_time_ns=int(1e9 * (now - request.started)),
        inference_time_ns=int(1e9 * (now - request.server_started)),
    )

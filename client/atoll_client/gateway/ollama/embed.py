"""Ollama's embeddings, of the present and of the older route."""

from __future__ import annotations

import time

import numpy as np

from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.encoders import Encoder, Parameters, read_items, truncation
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.ollama.answers import OllamaEmbedding, OllamaEmbeddings
from atoll_client.gateway.ollama.prompt import untagged
from atoll_client.gateway.ollama.schemas import OllamaEmbedBody, OllamaEmbeddingsBody
from atoll_client.gateway.tei.errors import TeiMessages
from atoll_client.gateway.tei.inference import check_dimensions
from atoll_client.types import Embeddings, ModelInfo

_NOTHING = Embeddings(np.empty((0, 0), np.float32), np.empty(0, np.uint32))


async def embed(
    request: Request, context: Context, body: OllamaEmbedBody
) -> Reply[OllamaEmbeddings]:
    """POST /api/embed: normalized vectors. Without an input, there are none."""
    model = context.find(request, untagged(context, body.model), ("embed",))
    check_dimensions(model, body.dimensions)
    texts = [body.input] if isinstance(body.input, str) else body.input
    parameters = {**truncation(body.truncate, None, None), "dimensions": body.dimensions}
    found = _NOTHING
    if texts not in ([], [""]):
        found = await _vectors(request, context, model, texts, parameters, "input")
    return reply(
        {
            "model": body.model or model.name,
            "embeddings": found.vectors,
            "total_duration": round(1e9 * (time.perf_counter() - request.started)),
            "load_duration": 0,
            "prompt_eval_count": int(found.num_tokens.sum()),
        }
    )


async def embeddings(
    request: Request, context: Context, body: OllamaEmbeddingsBody
) -> Reply[OllamaEmbedding]:
    """POST /api/embeddings: a vector that is not normalized. Without a prompt, it is empty."""
    model = context.find(request, untagged(context, body.model), ("embed",))
    if not body.prompt:
        return reply({"embedding": np.empty(0, np.float32)})
    parameters: Parameters = {**truncation(None, None, None), "normalize": False}
    found = await _vectors(request, context, model, [body.prompt], parameters, "prompt")
    return reply({"embedding": found.vectors[0]})


async def _vectors(
    request: Request,
    context: Context,
    model: ModelInfo,
    texts: list[str],
    parameters: Parameters,
    field: str,
) -> Embeddings:
    request.labels.update(kind="tei", method="batch" if len(texts) > 1 else "single")
    items = read_items(model, texts, field)
    with TeiMessages(model, field):
        return await Encoder(request, context, model).embed(items, parameters)

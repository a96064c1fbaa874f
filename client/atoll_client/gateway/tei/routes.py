"""Text Embeddings Inference's routes over HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np

from atoll_client import embeddings, tasks
from atoll_client.errors import EmptyInputError
from atoll_client.gateway.core import tokens
from atoll_client.gateway.core.arrays import Vector, Vectors
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.encoders import Encoder, check_batch, timing_headers
from atoll_client.gateway.core.schemas import Inputs, batch
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.tei import inference, schemas
from atoll_client.gateway.tei.answers import Prediction, RankedText, SparseEntry, TokenPlace
from atoll_client.gateway.tei.errors import TeiMessages
from atoll_client.gateway.tei.token_classifiers import TASK, Entities, entities


async def embed(request: Request, context: Context, body: schemas.EmbedBody) -> Reply[Vectors]:
    """One vector for each text, in a list even if there is only one."""
    found = await inference.vectors(request, context, body)
    count = sum(found.num_tokens.tolist())
    return reply(found.vectors, timing_headers(request, count, _characters(body.inputs)))


async def embed_all(
    request: Request, context: Context, body: schemas.EmbedAllBody
) -> Reply[list[Vectors]]:
    """One vector for each token of each text, including special tokens.

    Late-interaction models leave some out, and encode queries with ``prompt_name`` "query".
    """
    rows, count = await inference.token_vectors(request, context, body)
    return reply(rows, timing_headers(request, count, _characters(body.inputs)))


async def embed_sparse(
    request: Request, context: Context, body: schemas.EmbedSparseBody
) -> Reply[list[list[SparseEntry]]]:
    """A list of entries for each text."""
    rows, count = await inference.sparse_vectors(request, context, body)
    return reply(rows, timing_headers(request, count, _characters(body.inputs)))


async def predict(
    request: Request, context: Context, body: schemas.PredictBody
) -> Reply[list[Prediction] | list[list[Prediction]] | Entities | list[Entities]]:
    """Labels with scores, best first, or entities; nested if the inputs are a batch."""
    order = ("classify", "rerank", TASK)
    model = context.find(request, body.model, order[::-1] if body.entity_fields else order)
    if model.task == TASK:
        return reply(*await entities(request, context, body, schemas.EntityOptions()))
    inference.check_labels(body)
    pairs, is_single = inference.pairs_of(body.inputs)
    check_batch(request, context, len(pairs), model)
    found, count = await inference.scored(Encoder(request, context, model), pairs, body)
    headers = timing_headers(request, count, sum(len(a) + len(b or "") for a, b in pairs))
    labelled = [inference.labels_of(model, row) for row in found]
    return reply(labelled[0] if is_single else labelled, headers)


async def rerank(
    request: Request, context: Context, body: schemas.RerankBody
) -> Reply[list[RankedText]]:
    """Scores of texts for a query, best first."""
    ranks, count = await inference.ranked_texts(request, context, body)
    size = len(body.query) + sum(map(len, body.texts))
    return reply(ranks, timing_headers(request, count, size))


async def similarity(
    request: Request, context: Context, body: schemas.SimilarityBody
) -> Reply[Vector]:
    """Cosine similarity of each sentence with the source sentence."""
    model = context.find(request, body.model, ("embed",))
    if not body.inputs.sentences:
        raise EmptyInputError("`inputs.sentences` cannot be empty")
    texts, _ = batch([body.inputs.source_sentence, *body.inputs.sentences])
    check_batch(request, context, len(texts), model)
    with TeiMessages(model):
        encoder = Encoder(request, context, model)
        source, *sentences = map(str, texts)
        sides = await encoder.embed_sides([source], sentences, body.parameters.cut())
    count = sum(int(side.num_tokens.sum()) for side in sides)
    vectors = np.concatenate([side.vectors for side in sides])
    return reply(embeddings.cosine(vectors), timing_headers(request, count, sum(map(len, texts))))


async def tokenize(
    request: Request, context: Context, body: schemas.TokenizeBody
) -> Reply[list[list[TokenPlace]]]:
    """Tokens of each text, with byte offsets."""
    model = context.find(request, body.model, tasks.ANY_TASK)
    texts, _ = batch(body.inputs)
    prompt = "" if body.prompt_name is None else inference.prompt_of(model, body.prompt_name)
    texts = [prompt + str(text) for text in texts]
    tokens.check_length(model, texts)
    return Reply(await tokens.tokenized(context, model, texts, body.add_special_tokens))


async def decode(request: Request, context: Context, body: schemas.DecodeBody) -> Reply[list[str]]:
    """A text for each list of token ids."""
    model = context.find(request, body.model, tasks.ANY_TASK)
    ids: Any
    ids, _ = batch(body.ids, "ids")
    return reply(
        await tokens.decode(context, model, ids, skip_special_tokens=body.skip_special_tokens)
    )


def _characters(inputs: Inputs) -> int:
    """Characters of all texts; token ids count as one each."""
    return sum(map(len, batch(inputs)[0]))

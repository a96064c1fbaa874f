"""Reranking routes of other servers: Cohere and Jina, NVIDIA NIM, and vLLM's pairwise scores."""

from __future__ import annotations

import secrets
import time
from typing import Any

import numpy as np

from atoll_client import embeddings, tasks
from atoll_client.errors import EmptyInputError, ValidationError
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.encoders import Encoder, Parameters
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.openai import answers
from atoll_client.gateway.openai.embeddings_schemas import cut
from atoll_client.gateway.tei.errors import TeiMessages
from atoll_client.gateway.tei.inference import ranked
from atoll_client.gateway.tei.rerankers_schemas import CohereBody, RankingBody, ScoreBody
from atoll_client.scores import Scores


async def rerank(request: Request, context: Context, body: CohereBody) -> Reply[answers.Reranked]:
    """Documents by relevance, at most ``top_n`` of them."""
    texts = [_text(index, document) for index, document in enumerate(body.documents)]
    model = context.find(request, body.model, tasks.RANKING_TASKS)
    encoder = Encoder(request, context, model)
    found, count = await _scores(encoder, body.query, texts, body.cut(), body.is_raw)
    results: list[answers.Relevance] = [
        {"index": i, "relevance_score": found.values[i]} for i in found.order[: body.top_n]
    ]
    if body.return_documents:
        for result in results:
            document = body.documents[result["index"]]
            result["document"] = {"text": document} if isinstance(document, str) else document
    return reply(
        {
            "id": f"rerank-{secrets.token_hex(12)}",
            "model": model.name,
            "results": results,
            "usage": answers.input_usage(count),
            "meta": {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": count}},
        }
    )


async def ranking(request: Request, context: Context, body: RankingBody) -> Reply[answers.Rankings]:
    """Passages by logit."""
    model = context.find(request, body.model, tasks.RANKING_TASKS)
    texts = [passage.text for passage in body.passages]
    # By default, NIM cuts off the ends of long passages.
    parameters = cut(body.truncate or "END", None)
    encoder = Encoder(request, context, model)
    found, count = await _scores(encoder, body.query.text, texts, parameters, True, "passages")
    rankings: list[answers.Ranking] = [{"index": i, "logit": found.values[i]} for i in found.order]
    return reply({"rankings": rankings, "usage": answers.input_usage(count)})


async def score(request: Request, context: Context, body: ScoreBody) -> Reply[answers.ScoreList]:
    """A reranker's score of each pair, or an embedder's cosine similarity."""
    model = context.find(request, body.model, (*tasks.RANKING_TASKS, "embed"))
    seconds = [body.text_2] if isinstance(body.text_2, str) else body.text_2
    firsts = [body.text_1] * len(seconds) if isinstance(body.text_1, str) else body.text_1
    if len(firsts) != len(seconds):
        raise ValidationError(
            f"`text_1` has {len(firsts)} texts and `text_2` {len(seconds)}; expected as many",
            param="text_2",
        )
    if not firsts or not all(firsts) or not all(seconds):
        raise EmptyInputError("`text_1` and `text_2` cannot be empty")
    encoder = Encoder(request, context, model)
    values, count = await _pair_scores(encoder, firsts, seconds, body)
    data: list[answers.PairScore] = [
        {"index": i, "object": "score", "score": value} for i, value in enumerate(values)
    ]
    return reply(
        {
            "id": f"score-{secrets.token_hex(12)}",
            "object": "list",
            "created": int(time.time()),
            "model": model.name,
            "data": data,
            "usage": answers.input_usage(count),
        }
    )


async def _pair_scores(
    encoder: Encoder, firsts: list[str], seconds: list[str], body: ScoreBody
) -> tuple[list[float], int]:
    with TeiMessages(encoder.model, "text_2", "text_1"):
        if encoder.model.task in tasks.RANKING_TASKS:
            found, count = await ranked(encoder, firsts, seconds, body.cut(), body.is_raw)
            return found.values, count
        sides = await encoder.embed_sides(firsts, seconds, body.cut())
        pairs = zip(*(side.vectors for side in sides), strict=True)
        cosines = [float(embeddings.cosine(np.stack(pair))[0]) for pair in pairs]
        return cosines, sum(int(side.num_tokens.sum()) for side in sides)


async def _scores(
    encoder: Encoder,
    query: str,
    texts: list[str],
    parameters: Parameters,
    is_raw: bool,
    field: str = "documents",
) -> tuple[Scores, int]:
    if not texts or not query:
        raise EmptyInputError.of("query" if texts else field, "cannot be empty")
    with TeiMessages(encoder.model, field):
        return await ranked(encoder, query, texts, parameters, is_raw)


def _text(index: int, document: str | dict[str, Any]) -> str:
    text = document if isinstance(document, str) else document.get("text")
    if not isinstance(text, str):
        raise ValidationError.of(f"documents[{index}]", "must be a text, or an object with a text")
    return text

"""Reranking as others write it: Cohere and Jina, NVIDIA NIM, and vLLM's pairwise scores."""

from __future__ import annotations

import secrets
import time
from typing import Any

import numpy as np

from atoll_client import tasks
from atoll_client.errors import EmptyInputError, ValidationError
from atoll_client.gateway import encoders
from atoll_client.gateway.bodies import Strict
from atoll_client.gateway.http import Reply, Request, reply
from atoll_client.gateway.tei import exact_messages, find
from atoll_client.types import Floats, ModelInfo


class CohereBody(Strict):
    """POST /v1/rerank and /v2/rerank."""

    query: str
    documents: list[str | dict[str, Any]]
    model: str | None = None
    top_n: int | None = None
    return_documents: bool = False


class Text(Strict):
    """A text in an object, as NIM has them."""

    text: str


class RankingBody(Strict):
    """POST /v1/ranking."""

    query: Text
    passages: list[Text]
    model: str | None = None
    truncate: str | None = None


class ScoreBody(Strict):
    """POST /v1/score: texts one by one, or one text with each of the others."""

    text_1: str | list[str]
    text_2: str | list[str]
    model: str | None = None


async def rerank(request: Request, body: CohereBody) -> Reply:
    """Documents by relevance, at most ``top_n``."""
    texts = [_text(index, document) for index, document in enumerate(body.documents)]
    if body.top_n is not None and body.top_n < 1:
        raise ValidationError(f"`top_n` is {body.top_n}; the least allowed is 1")
    model = find(request, body.model, ("rerank",))
    scores, count = await _scores(request, model, body.query, texts, {})
    values = scores.tolist()
    results: list[dict[str, Any]] = [
        {"index": i, "relevance_score": values[i]} for i in _order(scores)[: body.top_n]
    ]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    return reply(
        {
            "id": f"rerank-{secrets.token_hex(12)}",
            "model": model.name,
            "results": results,
            "usage": {"prompt_tokens": count, "total_tokens": count},
            "meta": {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": count}},
        }
    )


async def ranking(request: Request, body: RankingBody) -> Reply:
    """Passages by logit."""
    model = find(request, body.model, ("rerank",))
    texts = [passage.text for passage in body.passages]
    parameters = {"raw_scores": True, "truncate": (body.truncate or "END").upper() != "NONE"}
    scores, count = await _scores(request, model, body.query.text, texts, parameters)
    values = scores.tolist()
    rankings = [{"index": i, "logit": values[i]} for i in _order(scores)]
    return reply({"rankings": rankings, "usage": {"prompt_tokens": count, "total_tokens": count}})


async def score(request: Request, body: ScoreBody) -> Reply:
    """A reranker's score of each pair, or an embedder's cosine."""
    model = find(request, body.model, ("rerank", "embed"))
    seconds = [body.text_2] if isinstance(body.text_2, str) else body.text_2
    firsts = [body.text_1] * len(seconds) if isinstance(body.text_1, str) else body.text_1
    if len(firsts) != len(seconds):
        raise ValidationError(
            f"`text_1` has {len(firsts)} texts and `text_2` {len(seconds)}; expected as many"
        )
    if not firsts or not all(firsts) or not all(seconds):
        raise EmptyInputError("`text_1` and `text_2` cannot be empty")
    scores, count = await _pair_scores(request, model, firsts, seconds)
    data = [
        {"index": i, "object": "score", "score": value} for i, value in enumerate(scores.tolist())
    ]
    return reply(
        {
            "id": f"score-{secrets.token_hex(12)}",
            "object": "list",
            "created": int(time.time()),
            "model": model.name,
            "data": data,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }
    )


async def _pair_scores(
    request: Request, model: ModelInfo, firsts: list[str], seconds: list[str]
) -> tuple[Floats, int]:
    with exact_messages(model):
        if model.task == "embed":
            found = await encoders.embed(request, model, [*firsts, *seconds], {})
            half = len(firsts)
            cosines = [
                tasks.cosine(np.stack([found.vectors[i], found.vectors[half + i]]))[0]
                for i in range(half)
            ]
            return np.array(cosines, np.float32), sum(found.num_tokens.tolist())
        scores, total = np.empty(len(firsts), np.float32), 0
        for query in dict.fromkeys(firsts):
            rows = [i for i, first in enumerate(firsts) if first == query]
            part, count = await encoders.rerank(
                request, model, query, [seconds[i] for i in rows], {}
            )
            scores[rows] = part
            total += count
        return scores, total


async def _scores(
    request: Request, model: ModelInfo, query: str, texts: list[str], parameters: dict[str, Any]
) -> tuple[Floats, int]:
    if not texts or not query:
        raise EmptyInputError(f"the {'query' if texts else 'list of texts'} cannot be empty")
    with exact_messages(model):
        return await encoders.rerank(request, model, query, texts, parameters)


def _order(scores: Floats) -> list[int]:
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    return order


def _text(index: int, document: str | dict[str, Any]) -> str:
    text = document if isinstance(document, str) else document.get("text")
    if not isinstance(text, str):
        raise ValidationError(f"`documents.{index}` must be a text, or an object with a text")
    return text

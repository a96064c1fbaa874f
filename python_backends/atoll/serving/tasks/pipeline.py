"""Retrieve-then-rerank over two other models of the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from atoll.errors import ConfigError
from atoll.serving.requests.validation import refuse_empty
from atoll.serving.tasks.linked_models import LinkedModel, ask, read_request
from atoll.serving.triton import tensors


class RetrieveRerankModel(LinkedModel):
    """query and text_input -> index and score of the best documents, best first.

    Entry parameters: ``embedder``, ``reranker``, ``num_retrieved``. Request parameters:
    ``num_retrieved`` (documents that reach the reranker) and ``top_k`` (documents returned).
    """

    def configure(self, parameters: Mapping[str, str]) -> None:
        """See ``LinkedModel``."""
        try:
            self.embedder, self.reranker = parameters["embedder"], parameters["reranker"]
        except KeyError as error:
            raise ConfigError(f"parameter {error} is missing in config.pbtxt") from None
        self.num_retrieved = int(parameters.get("num_retrieved", "32"))

    async def answer(self, request: Any) -> dict[str, tensors.Array]:
        """See ``LinkedModel``."""
        query, texts, given = read_request(request, frozenset({"num_retrieved", "top_k"}))
        refuse_empty("text_input", texts)
        count = tensors.as_int("num_retrieved", given.get("num_retrieved", self.num_retrieved), 1)
        top_k = tensors.as_int("top_k", given.get("top_k", count), 1)
        vectors = await dense_vectors(self.embedder, [query, *texts])
        similarity = vectors[1:] @ vectors[0]
        kept = np.argsort(-similarity, kind="stable")[:count]
        scores, logits = await reranked(self.reranker, query, [texts[i] for i in kept])
        order = np.argsort(-logits, kind="stable")[:top_k]
        return {"index": kept[order].astype(np.int32), "score": scores[order]}


async def dense_vectors(
    model: str, texts: list[str], parameters: Mapping[str, Any] | None = None
) -> tensors.Array:
    """An embedder's vectors, (texts, width)."""
    found = await ask(model, ["embedding"], {"text_input": texts}, parameters)
    return np.concatenate([vectors for (vectors,) in found])


async def reranked(model: str, query: str, texts: list[str]) -> tuple[tensors.Array, tensors.Array]:
    """A reranker's scores and logits, (texts,) each."""
    found = await ask(model, ["score", "logit"], {"query": [query], "text_input": texts})
    scores, logits = zip(*found, strict=True)
    return np.concatenate(scores).reshape(-1), np.concatenate(logits).reshape(-1)

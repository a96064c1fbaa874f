"""Retrieve-then-rerank over two other models of the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from atoll.errors import ConfigError, ValidationError
from atoll.serving.requests.report import part
from atoll.serving.requests.validation import refuse_empty
from atoll.serving.tasks.linked_models import Link, LinkedModel, Search
from atoll.serving.triton import tensors


class RetrieveRerankModel(LinkedModel):
    """query and text_input -> index and score of the best documents, best first.

    Entry parameters: ``embedder``, ``reranker``, ``num_retrieved``. Request parameters:
    ``num_retrieved`` (documents that reach the reranker) and ``top_k`` (documents returned).
    """

    def configure(self, parameters: Mapping[str, str]) -> None:
        """See ``LinkedModel``."""
        try:
            self.embedder, self.reranker = (
                Link(name, parameters[name]) for name in ("embedder", "reranker")
            )
        except KeyError as error:
            raise ConfigError(f"parameter {error} is missing in config.pbtxt") from None
        try:
            given = parameters.get("num_retrieved", 32)
            self.num_retrieved = tensors.as_int("num_retrieved", given, 1)
        except ValidationError as error:
            raise ConfigError(f"config.pbtxt: {error}") from None

    async def answer(self, request: Any) -> dict[str, tensors.Array]:
        """See ``LinkedModel``."""
        search = Search.read(request, frozenset({"num_retrieved", "top_k"}))
        given = search.given
        refuse_empty("text_input", search.texts)
        count = tensors.as_int("num_retrieved", given.get("num_retrieved", self.num_retrieved), 1)
        top_k = tensors.as_int("top_k", given.get("top_k", count), 1)
        with part("retrieve"):
            similarity = await similarities(self.embedder, search)
        kept = np.argsort(-similarity, kind="stable")[:count]
        with part("rerank"):
            scores, logits = await reranked(self.reranker, search, kept.tolist())
        order = np.argsort(-logits, kind="stable")[:top_k]
        return {"index": kept[order].astype(np.int32), "score": scores[order]}


async def similarities(
    link: Link, search: Search, prompts: Mapping[str, str] = MappingProxyType({})
) -> tensors.Array:
    """Cosines of the documents with the query by an embedder, (documents,).

    prompts: names of the embedder's, for ``query`` and ``document``.
    """
    model = await link.find()
    (((asked,),), found) = await model.encode(["embedding"], search, {}, prompts)
    return np.asarray(np.concatenate([vectors for (vectors,) in found]) @ asked[0])


async def reranked(
    link: Link, search: Search, kept: Sequence[int]
) -> tuple[tensors.Array, tensors.Array]:
    """A reranker's scores and logits of the documents ``kept``, (kept,) each.

    Those of a late-interaction model are sums of products, and the same.
    """
    model = await link.find()

    def place(name: str, row: int) -> str:
        return f"text_input[{kept[row]}]" if name == "text_input" else "query"

    asked = {"query": [search.query], "text_input": [search.texts[index] for index in kept]}
    outputs = ["score"] if model.task == "multi_vector" else ["score", "logit"]
    found = await model.ask(outputs, asked, place, search.shared)
    parts = [np.concatenate(part).reshape(-1) for part in zip(*found, strict=True)]
    return parts[0], parts[-1]

"""Hybrid search: rankings by dense vectors, by sparse ones and by a reranker, fused by rank.

Reciprocal rank fusion (Cormack et al. 2009): a document's score is the sum over the rankings of
weight / (k + rank), ranks from 1. It needs no scores that can be compared with one another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atoll import json_text
from atoll.errors import ConfigError, ValidationError
from atoll.serving.requests.report import part
from atoll.serving.requests.validation import refuse_empty
from atoll.serving.tasks.linked_models import Link, LinkedModel, Search
from atoll.serving.tasks.pipeline import reranked, similarities
from atoll.serving.triton import tensors
from atoll.serving.triton.tensors import Array

# The ranking of each entry parameter that names a model.
_RANKINGS = {"embedder": "dense", "sparse_embedder": "sparse", "reranker": "rerank"}
_PARAMETERS = frozenset({"k", "weights", "num_retrieved", "top_k"})
_MOST_WEIGHT = 1e6


class HybridSearchModel(LinkedModel):
    """query and text_input -> index and score of the best documents, best first.

    Entry parameters: ``embedder``, ``sparse_embedder`` and ``reranker``, of which one may be
    enough; ``query_prompt_name`` and ``document_prompt_name``, the embedder's; and defaults for the
    request's. Request parameters: ``k``; ``weights``, a JSON object by ranking (dense, sparse,
    rerank), 1 each by default; ``num_retrieved``, the documents that reach the reranker, best by
    the fused rankings before it; ``top_k``, the documents returned.
    """

    def configure(self, parameters: Mapping[str, str]) -> None:
        """See ``LinkedModel``."""
        self.models = {
            ranking: Link(key, parameters[key])
            for key, ranking in _RANKINGS.items()
            if parameters.get(key)
        }
        if not self.models:
            raise ConfigError(f"config.pbtxt has none of the parameters {', '.join(_RANKINGS)}")
        prompts = {side: parameters.get(f"{side}_prompt_name") for side in ("query", "document")}
        self.prompts = {side: name for side, name in prompts.items() if name}
        if self.prompts and "dense" not in self.models:
            raise ConfigError(f"{next(iter(self.prompts))}_prompt_name is set without an embedder")
        self.defaults = {key: parameters[key] for key in _PARAMETERS & parameters.keys()}
        try:
            self._options({})
        except ValidationError as error:
            raise ConfigError(f"config.pbtxt: {error}") from None

    async def answer(self, request: Any) -> dict[str, Array]:
        """See ``LinkedModel``."""
        search = Search.read(request, _PARAMETERS)
        texts = search.texts
        k, weights, num_retrieved, top_k = self._options(search.given)
        first = {"dense": self._dense, "sparse": self._sparse}
        # A ranking that counts nothing is not computed.
        asked = [ranking for ranking in first if weights.get(ranking)]
        if asked:
            # Embedders would name it by another index; a reranker alone takes it.
            refuse_empty("text_input", texts)

        async def ranked(ranking: str) -> Array:
            with part(ranking):
                return await first[ranking](search)

        found = await asyncio.gather(*map(ranked, asked))
        fused = np.zeros(len(texts))
        for ranking, similarity in zip(asked, found, strict=True):
            fused += weights[ranking] * reciprocal_ranks(similarity, k)
        kept = np.argsort(-fused, kind="stable")
        if weights.get("rerank"):
            kept = kept[:num_retrieved] if asked else kept
            with part("rerank"):
                _, logits = await reranked(self.models["rerank"], search, kept.tolist())
            # Of equals, the one that the reranker prefers.
            kept, logits = _by(logits, kept, logits)
            fused[kept] += weights["rerank"] * reciprocal_ranks(logits, k)
            (kept,) = _by(fused[kept], kept)
        kept = kept[:top_k]
        return {"index": kept.astype(np.int32), "score": fused[kept].astype(np.float32)}

    def _options(self, given: Mapping[str, Any]) -> tuple[int, dict[str, float], int, int | None]:
        """k, weights, num_retrieved and top_k.

        Raises:
            ValidationError: names the parameter, its value and what is allowed.
        """
        if "num_retrieved" in given and not {"rerank"} < self.models.keys():
            raise ValidationError(
                f"num_retrieved is {given['num_retrieved']!r}, which limits what a reranker gets "
                f"of other rankings; this entry ranks by {', '.join(self.models)}"
            )
        asked = {**self.defaults, **given}
        k = tensors.as_int("k", asked.get("k", 60), 1)
        num_retrieved = tensors.as_int("num_retrieved", asked.get("num_retrieved", 32), 1)
        top_k = asked.get("top_k")
        top_k = None if top_k is None else tensors.as_int("top_k", top_k, 1)
        return k, self._weights(asked.get("weights", "{}")), num_retrieved, top_k

    def _weights(self, text: Any) -> dict[str, float]:
        try:
            named = json_text.loads(text) if isinstance(text, str) else None
        except ValueError:
            named = None
        if not isinstance(named, dict):
            raise ValidationError(f"weights is {text!r}; expected a JSON object of numbers")
        unknown = sorted(named.keys() - self.models.keys())
        if unknown:
            raise ValidationError(
                f"weights has {unknown[0]!r}; this entry ranks by {', '.join(self.models)}"
            )
        found = {
            ranking: tensors.as_float(f"weights.{ranking}", named.get(ranking, 1), 0, _MOST_WEIGHT)
            for ranking in self.models
        }
        if not any(found.values()):
            raise ValidationError(f"weights is {text!r}; one must be more than 0")
        return found

    async def _dense(self, search: Search) -> Array:
        return await similarities(self.models["dense"], search, self.prompts)

    async def _sparse(self, search: Search) -> Array:
        """Sums over the words that a document shares with the query, (texts,); -inf for none."""
        model = await self.models["sparse"].find()
        if model.task == "embed":
            outputs, options = ["sparse_indices", "sparse_values"], {"return_sparse": True}
        else:
            outputs, options = ["indices", "values", "offsets"], {}
        asked, found = await model.encode(outputs, search, options, {})
        (words,), rows = _sparse_rows(asked), _sparse_rows(found)
        weights = dict(words)
        sums = [sum(weights.get(index, 0.0) * value for index, value in row) for row in rows]
        return np.array([total if total > 0 else -np.inf for total in sums])


def reciprocal_ranks(scores: Array, k: int) -> Array:
    """1 / (k + rank), ranks from 1 by descending score, ties in their order; 0 for -inf."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return np.where(np.isneginf(scores), 0.0, 1 / (k + ranks))


def _sparse_rows(parts: Sequence[Sequence[Array]]) -> list[list[tuple[int, float]]]:
    """Indices and values of each row, from a sparse embedder's answers or from an embedder's."""
    found: list[tuple[Array, Array]] = []
    for indices, values, *rest in parts:
        if rest:
            bounds = rest[0].tolist()
            rows = [slice(*pair) for pair in zip(bounds[:-1], bounds[1:], strict=True)]
            found += [(indices[row], values[row]) for row in rows]
        else:
            # Rows are padded with the index -1.
            found += [(i[i >= 0], v[i >= 0]) for i, v in zip(indices, values, strict=True)]
    return [list(zip(i.tolist(), v.tolist(), strict=True)) for i, v in found]


def _by(scores: Array, *arrays: Array) -> tuple[Array, ...]:
    """The arrays in the order of descending scores."""
    order = np.argsort(-scores, kind="stable")
    return tuple(array[order] for array in arrays)

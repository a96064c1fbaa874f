"""Retrieve-then-rerank over two other models of the server (Triton's business logic scripting)."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from atoll.errors import ConfigError, EmptyInputError
from atoll.serving.requests.limits import TIMEOUT, refuse_time_limit
from atoll.serving.robust_mutexes import end_without_marks
from atoll.serving.triton import model_requests, tensors

# Rows in one request to a model: the limit of their entries.
_ROWS = 256


class RetrieveRerankModel:
    """query and text_input -> index and score of the best documents, best first.

    Entry parameters: ``embedder``, ``reranker``, ``num_retrieved``. Request parameters:
    ``num_retrieved`` (documents that reach the reranker) and ``top_k`` (documents returned).
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the names of the models; they need not be loaded yet."""
        end_without_marks()
        parameters = tensors.settings_parameters(args["model_config"])
        try:
            self.embedder, self.reranker = parameters["embedder"], parameters["reranker"]
        except KeyError as error:
            raise ConfigError(f"parameter {error} is missing in config.pbtxt") from None
        self.num_retrieved = int(parameters.get("num_retrieved", "32"))

    async def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; all requests are processed concurrently."""
        return list(await asyncio.gather(*(self._guarded(request) for request in requests)))

    async def _guarded(self, request: Any) -> Any:
        try:
            return await self._answer(request)
        except Exception as error:
            return tensors.failure(error)

    async def _answer(self, request: Any) -> Any:
        given = tensors.own_parameters(
            tensors.parsed_parameters(request.parameters()), {"num_retrieved", "top_k", TIMEOUT}
        )
        refuse_time_limit(request, given)
        query = tensors.string(request, "query")
        texts = tensors.strings(request, "text_input")
        if not query or not texts:
            raise EmptyInputError(f"{'text_input' if query else 'query'} is empty")
        count = tensors.as_int("num_retrieved", given.get("num_retrieved", self.num_retrieved), 1)
        top_k = tensors.as_int("top_k", given.get("top_k", count), 1)
        (vectors,) = await self._ask(self.embedder, ["embedding"], {"text_input": [query, *texts]})
        similarity = vectors[1:] @ vectors[0]
        kept = np.argsort(-similarity, kind="stable")[:count]
        pairs = {"query": [query], "text_input": [texts[i] for i in kept]}
        scores, logits = await self._ask(self.reranker, ["score", "logit"], pairs)
        order = np.argsort(-logits.reshape(-1), kind="stable")[:top_k]
        return tensors.response(
            {"index": kept[order].astype(np.int32), "score": scores.reshape(-1)[order]}
        )

    async def _ask(self, model: str, outputs: list[str], inputs: dict[str, list[str]]) -> list[Any]:
        """Outputs of another model, each with one row per text; single texts go with all others."""
        num_rows = max(map(len, inputs.values()))
        batches = [
            {
                name: tensors.texts(texts if len(texts) == 1 else texts[at : at + _ROWS])[:, None]
                for name, texts in inputs.items()
            }
            for at in range(0, num_rows, _ROWS)
        ]
        answers = (model_requests.infer(model, outputs, batch) for batch in batches)
        found = zip(*await asyncio.gather(*answers), strict=True)
        return [np.concatenate(rows) for rows in found]

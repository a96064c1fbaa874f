"""The asynchronous client: every task of every model on one server, over gRPC or HTTP.

    async with AsyncClient("localhost:8001") as client:
        vectors = await client.embed(["a text"])
        async for chunk in client.stream("Once upon a time", max_tokens=50):
            print(chunk.text, end="")

Without ``model``, the server's first model for the task is used. Cancelling the task that awaits an
answer cancels the work on the server.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal

from atoll_client import embeddings, entities, kserve, tasks
from atoll_client import shared_memory as shared
from atoll_client.connection import Connection
from atoll_client.conversation import AsyncConversation
from atoll_client.kserve import Message
from atoll_client.tasks import Prompt
from atoll_client.types import (
    Chunk,
    Embeddings,
    Entity,
    Floats,
    Generation,
    Label,
    ModelInfo,
    Rank,
    SparseVector,
    TextToken,
)


class AsyncClient(Connection):
    """A connection to one server: ``host:port`` of its gRPC endpoint, or an ``http://`` URL.

    Args:
        timeout_s: deadline of each request including retries, after which the server is told to
            stop; ``within`` sets another for some calls.
        retries: how often a request is repeated after a refusal (the server is full or cannot be
            reached), with growing pauses. A generation is only repeated if it was refused before it
            began.
    """

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def within(self, timeout_s: float) -> AsyncClient:
        """The same connection with another deadline: ``client.within(0.5).embed(...)``."""
        other = copy.copy(self)
        other._timeout_s = timeout_s
        return other

    async def models(self) -> list[ModelInfo]:
        """All of Atoll's models on the server."""
        await self._find(refresh=True)
        return [found.info for found in self._known.models.values()]

    async def embed(
        self,
        texts: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
        model: str | None = None,
        *,
        normalize: bool = True,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        truncate: bool | None = None,
        progress: bool = False,
        shared_memory: bool = False,
    ) -> Any:
        """Vectors: (width,) of one text, (texts, width) of several; float32.

        Args:
            texts: one text or several, or their token ids including special ones.
            shared_memory: the server writes vectors to memory that both map; for long lists, with a
                server on this machine that was started with ``--allow-shared-memory``.
        """
        parameters = {
            "normalize": None if normalize else False, "dimensions": dimensions,
            "prompt_name": prompt_name, "truncate": truncate,
        }  # fmt: skip
        info = await self._model(model, "embed")
        is_single = isinstance(texts, str) or (len(texts) > 0 and isinstance(texts[0], int))
        many: Any = [texts] if is_single else list(texts)
        if shared_memory and many:
            vectors = await self._embed_shared(info, many, parameters, progress)
            return vectors[0] if is_single else vectors
        found: list[Embeddings] = await self._in_parts(
            info, many, progress,
            lambda part: embeddings.embed(info.name, part, parameters), embeddings.read_embeddings,
        )  # fmt: skip
        vectors = embeddings.stacked(info, found, dimensions)
        return vectors[0] if is_single else vectors

    async def embed_all(
        self,
        texts: Sequence[str],
        model: str | None = None,
        *,
        prompt_name: str | None = None,
        truncate: bool | None = None,
        progress: bool = False,
    ) -> list[Floats]:
        """A vector for each token of each text, special tokens included: (tokens, width)."""
        parameters = {
            "prompt_name": prompt_name, "truncate": truncate, "return_token_embeddings": True,
        }  # fmt: skip
        info = await self._model(model, "embed")
        found = await self._in_parts(
            info, list(texts), progress,
            lambda part: tasks.embed(info.name, part, parameters), tasks.read_token_vectors,
        )  # fmt: skip
        return [rows for part in found for rows in part]

    async def similarity(
        self, source: str, sentences: Sequence[str], model: str | None = None, **options: Any
    ) -> Floats:
        """Cosine of each sentence with the source, (sentences,); options: those of ``embed``."""
        vectors = await self.embed([source, *sentences], model, **options)
        return tasks.cosine(vectors)

    async def embed_sparse(
        self,
        texts: Sequence[str],
        model: str | None = None,
        *,
        truncate: bool | None = None,
        progress: bool = False,
    ) -> list[SparseVector]:
        """A sparse vector for each text."""
        info = await self._model(model, "sparse")
        found = await self._in_parts(
            info, list(texts), progress,
            lambda part: embeddings.embed(info.name, part, {"truncate": truncate}),
            embeddings.read_sparse,
        )  # fmt: skip
        return [row for rows, _ in found for row in rows]

    async def embed_tokens(
        self,
        texts: Sequence[str],
        model: str | None = None,
        *,
        input_type: Literal["query", "document"] = "document",
        truncate: bool | None = None,
        progress: bool = False,
    ) -> list[Floats]:
        """A late-interaction model's vectors, (tokens, width) of each text; float32."""
        info = await self._model(model, "multi_vector")
        parameters = {"input_type": input_type, "truncate": truncate}
        found = await self._in_parts(
            info, list(texts), progress,
            lambda part: embeddings.embed(info.name, part, parameters), embeddings.read_vectors,
        )  # fmt: skip
        return [row for rows, _ in found for row in rows]

    async def rerank(
        self,
        query: str,
        texts: Sequence[str],
        model: str | None = None,
        *,
        raw_scores: bool = False,
        top_n: int | None = None,
        truncate: bool | None = None,
        progress: bool = False,
    ) -> list[Rank]:
        """Texts ranked by their relevance to the query, the best first.

        By a reranker, or by a late-interaction model, whose scores are sums (MaxSim).
        """
        info = await self._model(model, *tasks.RANKING_TASKS)
        found = await self._in_parts(
            info, list(texts), progress,
            lambda part: tasks.rank(info, query, part, {"truncate": truncate}), tasks.read_scores,
        )  # fmt: skip
        return tasks.ranked(info, found, texts, raw_scores, top_n)

    async def classify(
        self,
        texts: Sequence[str],
        model: str | None = None,
        *,
        pairs: Sequence[str] | None = None,
        raw_scores: bool = False,
        truncate: bool | None = None,
        progress: bool = False,
    ) -> list[list[Label]]:
        """Labels of each text (or pair of texts) with scores, the best first."""
        parameters = {"raw_scores": True, "truncate": truncate}
        info = await self._model(model, "classify")
        rows = tasks.paired(texts, pairs)

        def build(part: Sequence[tuple[str, str | None]]) -> Message:
            seconds = [second for _, second in part if second is not None] or None
            firsts = [first for first, _ in part]
            return tasks.classify(info.name, firsts, seconds, parameters)

        found = await self._in_parts(info, rows, progress, build, tasks.read_scores)
        return tasks.classified(info, found, raw_scores)

    async def classify_tokens(
        self,
        texts: Sequence[str],
        model: str | None = None,
        *,
        aggregation_strategy: str = "none",
        ignore_labels: Sequence[str] | None = None,
        truncate: bool | None = None,
        progress: bool = False,
    ) -> list[list[Entity]]:
        """The entities of each text, in order.

        Args:
            aggregation_strategy: none, simple, first, average or max, as in transformers' pipeline.
            ignore_labels: of what is left out; None: O.
        """
        parameters = {"aggregation_strategy": aggregation_strategy, "truncate": truncate}
        info = await self._model(model, "token_classify")
        found = await self._in_parts(
            info, list(texts), progress,
            lambda part: entities.request(info.name, part, ignore_labels, parameters),
            entities.read,
        )  # fmt: skip
        return [row for rows, _ in found for row in rows]

    async def generate(
        self, prompt: str | Sequence[int], model: str | None = None, **options: Any
    ) -> Generation:
        """A complete answer. Options: ``max_tokens``, ``temperature``, ``stop``, and others."""
        return await self._whole(tasks.prompt_of(prompt), model, options)

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> Generation:
        """The answer to a conversation; the model's chat template makes the prompt."""
        return await self._whole(Prompt(messages=messages, tools=tools), model, options)

    async def stream(
        self,
        prompt: str | Sequence[int] | Sequence[Mapping[str, Any]],
        model: str | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> AsyncGenerator[Chunk, None]:
        """Chunks as they arrive; the prompt is a text, token ids or messages (with tools).

        Leaving the loop early cancels the work.
        """
        found = dataclasses.replace(tasks.prompt_of(prompt), tools=tools)
        async with contextlib.aclosing(self._chunks(found, model, options, True)) as chunks:
            async for chunk in chunks:
                yield chunk

    def conversation(
        self, model: str | None = None, system: str | None = None, *, session: bool | None = None
    ) -> AsyncConversation:
        """A chat with history; see ``AsyncConversation``."""
        return AsyncConversation(self, model, system, session)

    async def tokenize(
        self, texts: Sequence[str], model: str, *, add_special_tokens: bool = True
    ) -> list[list[TextToken]]:
        """Tokens of texts, from a model's tokenizer."""
        question = {
            "op": "tokenize", "inputs": list(texts), "add_special_tokens": add_special_tokens,
        }  # fmt: skip
        rows = await self._ask(model, question)
        return [[TextToken(**token) for token in row] for row in rows]

    async def decode(self, ids: Sequence[Sequence[int]], model: str) -> list[str]:
        """Texts of token ids, from a model's tokenizer."""
        question = {"op": "decode", "ids": [list(row) for row in ids]}
        texts: list[str] = await self._ask(model, question)
        return texts

    async def input_shapes(self, model: str) -> dict[str, list[int]]:
        """Shapes of the inputs of any model on the server, by name; -1: any length."""
        about = await self._transport.metadata(model, self._timeout_s)
        return {tensor.name: [int(size) for size in tensor.shape] for tensor in about.inputs}

    async def infer(self, model: str, inputs: Mapping[str, Any], **parameters: Any) -> Any:
        """Runs any model on the server, including ensembles and pipelines, by its tensors' names.

        Args:
            inputs: numpy arrays, or lists of texts.

        Returns:
            Arrays by name; texts as lists of str.
        """
        message = kserve.request(model, parameters)
        for name, value in inputs.items():
            kserve.add_array(message, name, value)
        return kserve.as_text(kserve.outputs(await self._send(message)))

    async def _embed_shared(
        self, info: ModelInfo, texts: Sequence[Any], parameters: kserve.Parameters, progress: bool
    ) -> Floats:
        about = await self._transport.metadata(info.name, self._timeout_s)
        own = next(int(t.shape[-1]) for t in about.outputs if t.name == "embedding")
        width = int(parameters.get("dimensions") or own)
        async with shared.region(self._transport, len(texts), width, self._timeout_s) as region:

            def build(rows: Sequence[int]) -> Message:
                message = embeddings.embed(info.name, [texts[row] for row in rows], parameters)
                return region.fill(message, rows)

            await self._in_parts(info, range(len(texts)), progress, build, lambda _: None)
            return region.vectors()

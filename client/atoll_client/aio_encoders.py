"""Asynchronous calls of models that do not generate: vectors, scores, labels, entities."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from atoll_client import embeddings, entities, kserve, tasks
from atoll_client import shared_memory as shared
from atoll_client.batching import several
from atoll_client.connection import Connection
from atoll_client.kserve import Message
from atoll_client.types import (
    Embeddings,
    Entity,
    Floats,
    HybridEmbeddings,
    Label,
    ModelInfo,
    Rank,
    SparseVector,
)

T = TypeVar("T")


class AsyncEncoders(Connection):
    """The part of ``AsyncClient`` that calls encoders."""

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

    async def embed_images(
        self,
        images: embeddings.Image | Sequence[embeddings.Image],
        model: str | None = None,
        *,
        normalize: bool = True,
        dimensions: int | None = None,
        progress: bool = False,
    ) -> Any:
        """Vectors of images, (width,) of one, (images, width) of several; float32.

        By a model for texts and images (CLIP, SigLIP), in the space of its texts' vectors.

        Args:
            images: one or several: the bytes of a file (PNG, JPEG, WebP, GIF), a data URI, or a
                ``pathlib.Path``, which is read here.
        """
        parameters = {"normalize": None if normalize else False, "dimensions": dimensions}
        info = await self._model(model, "embed")
        many = embeddings.images_of(images, info)
        found: list[Embeddings] = await self._in_parts(
            info, many, progress,
            lambda part: embeddings.embed_images(info.name, part, parameters),
            embeddings.read_embeddings,
            embeddings.images_per_request(info, many),
        )  # fmt: skip
        vectors = embeddings.stacked(info, found, dimensions)
        return vectors[0] if isinstance(images, (bytes, str, os.PathLike)) else vectors

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
        return await self._rows(
            info, texts, progress,
            lambda part: embeddings.embed(info.name, part, parameters),
            embeddings.read_token_vectors,
        )  # fmt: skip

    async def similarity(
        self, source: str, sentences: Sequence[str], model: str | None = None, **options: Any
    ) -> Floats:
        """Cosine of each sentence with the source, (sentences,); options: those of ``embed``."""
        vectors = await self.embed([source, *several(sentences, "sentences")], model, **options)
        return embeddings.cosine(vectors)

    async def embed_sparse(
        self,
        texts: Sequence[str],
        model: str | None = None,
        *,
        prompt_name: str | None = None,
        truncate: bool | None = None,
        progress: bool = False,
    ) -> list[SparseVector]:
        """A sparse vector for each text."""
        parameters = {"prompt_name": prompt_name, "truncate": truncate}
        info = await self._model(model, "sparse")
        return await self._rows(
            info, texts, progress,
            lambda part: embeddings.sparse(info, part, parameters),
            embeddings.sparse_reader(info),
        )  # fmt: skip

    async def embed_hybrid(
        self,
        texts: Sequence[str],
        model: str | None = None,
        *,
        sparse: bool = True,
        colbert_vecs: bool = True,
        normalize: bool = True,
        truncate: bool | None = None,
        progress: bool = False,
    ) -> HybridEmbeddings:
        """Vectors of texts, weights of their words and vectors of their tokens, by bge-m3."""
        info = await self._model(model, "hybrid")
        parameters = {
            "return_sparse": sparse or None, "return_colbert_vecs": colbert_vecs or None,
            "normalize": None if normalize else False, "truncate": truncate,
        }  # fmt: skip
        found = await self._in_parts(
            info, several(texts), progress,
            lambda part: embeddings.embed(info.name, part, parameters), embeddings.read_hybrid,
        )  # fmt: skip
        nothing = HybridEmbeddings(
            embeddings.stacked(info, [], None), [] if sparse else None, [] if colbert_vecs else None
        )
        return embeddings.joined(found, nothing)

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
        return await self._rows(
            info, texts, progress,
            lambda part: embeddings.embed(info.name, part, parameters), embeddings.read_vectors,
        )  # fmt: skip

    async def rerank(
        self,
        query: str,
        texts: Sequence[str],
        model: str | None = None,
        *,
        raw_scores: bool = False,
        top_n: int | None = None,
        truncate: bool | None = None,
        instruction: str | None = None,
        progress: bool = False,
    ) -> list[Rank]:
        """Texts ranked by their relevance to the query, the best first.

        By a reranker, or by a late-interaction model, whose scores are sums (MaxSim). A decoder
        that reranks is told by the instruction what to judge.
        """
        parameters = {"truncate": truncate, "instruction": instruction}
        info = await self._model(model, *tasks.RANKING_TASKS)
        found = await self._in_parts(
            info, several(texts), progress,
            lambda part: tasks.rank(info, query, part, parameters), tasks.read_scores,
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
        rows = tasks.paired(several(texts), None if pairs is None else several(pairs, "pairs"))

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
        return await self._rows(
            info, texts, progress,
            lambda part: entities.request(info.name, part, ignore_labels, parameters),
            entities.read,
        )  # fmt: skip

    async def _rows(
        self,
        info: ModelInfo,
        texts: Sequence[str],
        progress: bool,
        build: Callable[[Sequence[str]], Message],
        read: Callable[[Message], tuple[list[T], Any]],
    ) -> list[T]:
        """What ``read`` finds for each text, in parts of what the model accepts in one request."""
        found = await self._in_parts(info, several(texts), progress, build, read)
        return [row for rows, _ in found for row in rows]

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

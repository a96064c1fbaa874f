"""Embedding and scoring for every dialect: texts or token ids in, numbers out.

Long lists are split into parts of what a model accepts in one request, which run concurrently.
Token ids are passed on unchanged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
from pydantic import Field

from atoll_client import embeddings, entities, tasks
from atoll_client.batching import in_parts, in_place
from atoll_client.errors import GenerationError, TooMuch, ValidationError
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.schemas import Inputs, batch
from atoll_client.gateway.core.web import Request
from atoll_client.kserve import Message, prioritize
from atoll_client.types import Embeddings, Entity, Floats, ModelInfo, SparseVector

R = TypeVar("R")
T = TypeVar("T")
Items = list[str] | list[list[int]]
Parameters = dict[str, Any]
# The side on which texts are cut. Generators of clients need names that differ not only in case.
Direction = Annotated[
    Literal["Right", "Left", "right", "left"],
    Field(json_schema_extra={"x-enum-varnames": ["RIGHT", "LEFT", "LOWER_RIGHT", "LOWER_LEFT"]}),
]
# TEI's default.
DEFAULT_BATCH_LIMIT = 32
# Scores are computed here, in float64: in float32, they may all be equal.
_RAW = {"raw_scores": True}


def truncation(truncate: bool | None, direction: str | None, prompt_name: str | None) -> Parameters:
    """The models' parameters of truncation and of the prompt; None: the model's default."""
    return {
        "truncate": truncate,
        "truncation_direction": direction.lower() if direction else None,
        "prompt_name": prompt_name,
    }


class Encoder(NamedTuple):
    """An encoder, as one request uses it."""

    request: Request
    context: Context
    model: ModelInfo

    async def embed(self, items: Items, parameters: Parameters) -> Embeddings:
        """Dense vectors of texts or token ids."""
        message_of = self._embedding(parameters)
        found = await self._infer(items, message_of, embeddings.read_embeddings)
        return self._counted(_joined(found))

    async def embed_sides(
        self, queries: Sequence[str], documents: Sequence[str], parameters: Parameters
    ) -> tuple[Embeddings, Embeddings]:
        """Dense vectors of texts to compare: by a model's routes for queries and for documents, if
        it has both and no prompt is named; else all alike."""
        kinds = self.model.facts.get("input_types") or ()
        if len(kinds) < 2 or parameters.get("prompt_name") is not None:
            whole = await self.embed([*queries, *documents], parameters)
            vectors, counts = whole.vectors, whole.num_tokens
            at = len(queries)
            return Embeddings(vectors[:at], counts[:at]), Embeddings(vectors[at:], counts[at:])
        first, second = await asyncio.gather(
            *(
                self.embed(list(texts), {**parameters, "prompt_name": kind})
                for kind, texts in (("query", queries), ("document", documents))
            )
        )
        return first, second

    async def embed_images(self, images: Sequence[str], parameters: Parameters) -> Embeddings:
        """Dense vectors of images, given as data URIs."""

        def message_of(some: Sequence[str]) -> Message:
            return embeddings.embed_images(self.model.name, some, parameters)

        size = embeddings.images_per_request(self.model, images)
        found = await self._infer(images, message_of, embeddings.read_embeddings, size)
        return self._counted(_joined(found))

    async def embed_all(self, items: Items, parameters: Parameters) -> tuple[list[Floats], int]:
        """A vector for each token, (tokens, width) for each text, and the number of input tokens.

        A late-interaction model has prompts for queries and for documents.
        """
        asked: Parameters
        if self.model.task == "multi_vector":
            asked = {"prompt_name": None, "input_type": parameters.get("prompt_name")}
            read = embeddings.read_vectors
        else:
            asked, read = {"return_token_embeddings": True}, embeddings.read_token_vectors
        return await self._rows(items, self._embedding({**parameters, **asked}), read)

    async def embed_sparse(
        self, items: Items, parameters: Parameters
    ) -> tuple[list[SparseVector], int]:
        """Sparse vectors, and the number of input tokens."""

        def message_of(some: Sequence[Any]) -> Message:
            return embeddings.sparse(self.model, some, parameters)

        return await self._rows(items, message_of, embeddings.sparse_reader(self.model))

    async def rerank(
        self, query: str | Sequence[str], texts: Sequence[str], parameters: Parameters
    ) -> tuple[Floats, int]:
        """Logits (texts, 1), and the number of input tokens. Several queries: one for each text."""
        queries = [query] * len(texts) if isinstance(query, str) else query

        def message_of(some: Sequence[tuple[str, str]]) -> Message:
            firsts = query if isinstance(query, str) else [first for first, _ in some]
            seconds = [text for _, text in some]
            return tasks.rank(self.model, firsts, seconds, parameters)

        rows = list(zip(queries, texts, strict=True))
        return self._noted(*_scores(await self._infer(rows, message_of, tasks.read_scores)))

    async def classify(
        self, pairs: Sequence[tuple[str, str | None]], parameters: Parameters
    ) -> tuple[Floats, int]:
        """Logits of every label, (texts, labels), and the number of input tokens.

        Single texts and pairs go in separate requests: a tensor has no gaps.
        """

        def message_of(some: Sequence[int]) -> Message:
            firsts = [pairs[index][0] for index in some]
            seconds = [second for index in some if (second := pairs[index][1]) is not None]
            return tasks.classify(self.model.name, firsts, seconds or None, parameters | _RAW)

        singles = [index for index, (_, second) in enumerate(pairs) if second is None]
        others = [index for index, (_, second) in enumerate(pairs) if second is not None]

        async def scores_of(group: list[int]) -> list[tuple[Floats, Any]]:
            try:
                return await self._infer(group, message_of, tasks.read_scores)
            except ValidationError as error:
                raise in_place(error, group.__getitem__) from None

        parts = await asyncio.gather(*(scores_of(group) for group in (singles, others) if group))
        logits, count = _scores([part for group in parts for part in group])
        found = np.empty_like(logits)
        found[[*singles, *others]] = logits
        return self._noted(found, count)

    async def classify_tokens(
        self, texts: Sequence[str], ignore_labels: Sequence[str] | None, parameters: Parameters
    ) -> tuple[list[list[Entity]], int]:
        """The entities of each text, and the number of input tokens."""

        def message_of(some: Sequence[str]) -> Message:
            return entities.request(self.model.name, some, ignore_labels, parameters)

        return await self._rows(texts, message_of, entities.read)

    def _embedding(self, parameters: Parameters) -> Callable[[Sequence[Any]], Message]:
        return lambda items: embeddings.embed(self.model.name, items, parameters)

    async def _rows(
        self,
        rows: Sequence[R],
        message_of: Callable[[Sequence[R]], Message],
        read: Callable[[Message], tuple[list[T], Any]],
    ) -> tuple[list[T], int]:
        """What ``read`` finds for each row, and the number of input tokens."""
        parts = await self._infer(rows, message_of, read)
        count = sum(int(n.sum()) for _, n in parts)
        return self._noted([one for found, _ in parts for one in found], count)

    def _noted(self, found: T, num_tokens: int) -> tuple[T, int]:
        """Both, once the tokens are part of what the request has taken."""
        self.request.usage.num_input_tokens += num_tokens
        return found, num_tokens

    def _counted(self, found: Embeddings) -> Embeddings:
        return self._noted(found, int(found.num_tokens.sum()))[0]

    async def _infer(
        self,
        rows: Sequence[R],
        message_of: Callable[[Sequence[R]], Message],
        read: Callable[[Message], T],
        size: int | None = None,
    ) -> list[T]:
        """The responses to all rows, in parts of ``size``, or what the model accepts at once."""
        pool, metadata, priority = self.context.pool, self.request.metadata, self.request.priority

        async def part(some: Sequence[R]) -> T:
            message = message_of(some)
            prioritize(message, priority)
            return read(await pool.infer(message, metadata))

        self.request.server_started = time.perf_counter()
        return await in_parts(rows, size or self.model.max_client_batch_size, False, part)


def _joined(parts: Sequence[Embeddings]) -> Embeddings:
    if len(parts) == 1:
        return parts[0]
    return Embeddings(
        np.concatenate([one.vectors for one in parts]),
        np.concatenate([one.num_tokens for one in parts]),
    )


def _scores(parts: Sequence[tuple[Floats, Any]]) -> tuple[Floats, int]:
    """The logits of all parts, and the number of input tokens."""
    logits = np.concatenate([part for part, _ in parts])
    if not np.isfinite(logits).all():
        raise GenerationError("score is NaN")
    return logits, sum(int(counts.sum()) for _, counts in parts)


def read_items(model: ModelInfo, inputs: Inputs, field: str = "inputs") -> Items:
    """Texts, or lists of token ids.

    Raises:
        EmptyInputError: no inputs, or an empty one. ValidationError: an id out of range.
    """
    items: Any
    items, is_single = batch(inputs, field)
    size = int(model.facts.get("num_token_ids") or model.facts.get("vocab_size") or 2**31)
    for row, item in enumerate(items):
        if isinstance(item, str):
            continue
        wrong = next((at for at, token in enumerate(item) if not 0 <= token < size), None)
        if wrong is not None:
            place = f"{field}[{wrong}]" if is_single else f"{field}[{row}][{wrong}]"
            raise ValidationError(
                f"`{place}` is {item[wrong]}, outside the vocabulary: the model's token ids are 0 "
                f"to {size - 1}",
                param=field, code="invalid_token_id",
            )  # fmt: skip
    return cast(Items, items)


def batch_limit(context: Context, model: ModelInfo | None) -> int:
    """The most texts in a request to TEI's routes: the gateway's setting, else the model's."""
    own = context.settings.max_client_batch_size
    of_model = model.facts.get("client_batch_limit") if model is not None else None
    return own or int(of_model or DEFAULT_BATCH_LIMIT)


def check_batch(
    request: Request,
    context: Context,
    count: int,
    model: ModelInfo | None = None,
    field: str | None = None,
) -> None:
    """Raises TooMuch: more inputs than TEI's routes accept.

    model: None if there are several. field: the one that holds the inputs.
    """
    limit = batch_limit(context, model)
    request.labels["method"] = "batch" if count > 1 else "single"
    if count > limit:
        request.labels["failure"] = "batch_size"
        raise TooMuch(f"batch size {count} > maximum allowed batch size {limit}", param=field)


def timing_headers(request: Request, num_tokens: int, num_characters: int) -> dict[str, str]:
    """TEI's headers, in milliseconds. Times inside the server are in /metrics, not here."""
    now = time.perf_counter()
    total, server = 1000 * (now - request.started), 1000 * (now - request.server_started)
    return {
        "x-compute-type": "triton",
        "x-compute-time": f"{total:.0f}",
        "x-compute-characters": str(num_characters),
        "x-compute-tokens": str(num_tokens),
        "x-total-time": f"{total:.0f}",
        "x-inference-time": f"{server:.0f}",
    }

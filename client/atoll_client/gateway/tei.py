"""Text Embeddings Inference's routes, with its shapes, statuses and messages."""

from __future__ import annotations

import re
import time
from typing import Any, Literal

import numpy as np
from pydantic import Field

from atoll_client import tasks
from atoll_client.errors import EmptyInputError, UnsupportedModel, ValidationError
from atoll_client.gateway import encoders
from atoll_client.gateway.bodies import Inputs, Strict, batch
from atoll_client.gateway.encoders import Truncation, check_batch, timing_headers
from atoll_client.gateway.http import Reply, Request, reply
from atoll_client.types import Floats, ModelInfo, TextToken

Direction = Literal["Right", "Left", "right", "left"]


class _Cut(Strict):
    model: str | None = None
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    prompt_name: str | None = None

    def truncation(self) -> Truncation:
        """The fields that every route has."""
        return Truncation(self.truncate, self.truncation_direction, self.prompt_name)


class EmbedBody(_Cut):
    """POST /embed; ``dimensions`` keeps the first values of each vector."""

    inputs: Inputs
    normalize: bool = True
    dimensions: int | None = None


class PredictBody(_Cut):
    """POST /predict: a text, one pair, or a list of lists of one or two texts."""

    inputs: str | list[str] | list[list[str]]
    raw_scores: bool = False


class RerankBody(_Cut):
    """POST /rerank."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


class SimilarityInputs(Strict):
    """One sentence and those it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityBody(Strict):
    """POST /similarity."""

    inputs: SimilarityInputs
    parameters: _Cut = Field(default_factory=_Cut)
    model: str | None = None


class TokenizeBody(Strict):
    """POST /tokenize."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None
    model: str | None = None


class DecodeBody(Strict):
    """POST /decode."""

    ids: list[int] | list[list[int]]
    skip_special_tokens: bool = True
    model: str | None = None


async def embed(request: Request, body: EmbedBody) -> Reply:
    """One vector for each text, in a list also for a single one."""
    model = find(request, body.model, ("embed",))
    items, _ = batch(body.inputs)
    check_batch(request, len(items))
    check_dimensions(model, body.dimensions)
    began = time.perf_counter()
    parameters = _embed_parameters(body)
    with exact_messages(model):
        found = await encoders.embed(request, model, items, parameters)
    headers = timing_headers(request, began, sum(found.num_tokens.tolist()), _characters(items))
    return reply(found.vectors, headers)


async def embed_all(request: Request, body: EmbedBody) -> Reply:
    """One vector for each token of each text, special tokens included."""
    model = find(request, body.model, ("embed",))
    items, _ = batch(body.inputs)
    check_batch(request, len(items))
    began = time.perf_counter()
    with exact_messages(model):
        rows = await encoders.embed_all(request, model, items, body.truncation().parameters())
    return reply(rows, timing_headers(request, began, sum(map(len, rows)), _characters(items)))


async def embed_sparse(request: Request, body: EmbedBody) -> Reply:
    """One list of index and value for each text."""
    model = find(request, body.model, ("sparse",))
    items, _ = batch(body.inputs)
    check_batch(request, len(items))
    began = time.perf_counter()
    with exact_messages(model):
        rows, count = await encoders.embed_sparse(
            request, model, items, body.truncation().parameters()
        )
    headers = timing_headers(request, began, count, _characters(items))
    pairs = [
        [{"index": i, "value": v} for i, v in zip(*map(np.ndarray.tolist, row), strict=True)]
        for row in rows
    ]
    return reply(pairs, headers)


async def predict(request: Request, body: PredictBody) -> Reply:
    """Labels with scores, the best first; nested if the inputs are a batch."""
    model = find(request, body.model, ("classify", "rerank"))
    pairs, is_single = pairs_of(body.inputs)
    check_batch(request, len(pairs))
    began = time.perf_counter()
    scores, count = await scored(request, model, pairs, body)
    headers = timing_headers(request, began, count, sum(len(a) + len(b or "") for a, b in pairs))
    labelled = [labels_of(model, row) for row in scores]
    return reply(labelled[0] if is_single else labelled, headers)


async def rerank(request: Request, body: RerankBody) -> Reply:
    """Scores of texts for a query, the best first."""
    model = find(request, body.model, ("rerank",))
    if not body.texts:
        raise EmptyInputError("`texts` cannot be empty")
    if not body.query:
        raise EmptyInputError("`inputs` cannot be empty")
    check_batch(request, len(body.texts))
    began = time.perf_counter()
    parameters = {**body.truncation().parameters(), "raw_scores": body.raw_scores}
    with exact_messages(model):
        scores, count = await encoders.rerank(request, model, body.query, body.texts, parameters)
    size = len(body.query) + sum(map(len, body.texts))
    order = np.argsort(-scores, kind="stable").tolist()
    values = scores.tolist()
    ranks: list[dict[str, Any]] = [{"index": i, "score": values[i]} for i in order]
    if body.return_text:
        for rank in ranks:
            rank["text"] = body.texts[rank["index"]]
    return reply(ranks, timing_headers(request, began, count, size))


async def similarity(request: Request, body: SimilarityBody) -> Reply:
    """Cosine of each sentence with the source."""
    model = find(request, body.model, ("embed",))
    if not body.inputs.sentences:
        raise EmptyInputError("`inputs.sentences` cannot be empty")
    texts, _ = batch([body.inputs.source_sentence, *body.inputs.sentences])
    check_batch(request, len(texts))
    began = time.perf_counter()
    with exact_messages(model):
        found = await encoders.embed(
            request, model, texts, body.parameters.truncation().parameters()
        )
    headers = timing_headers(request, began, sum(found.num_tokens.tolist()), _characters(texts))
    return reply(tasks.cosine(found.vectors), headers)


async def tokenize(request: Request, body: TokenizeBody) -> Reply:
    """Tokens of each text; start and stop count bytes."""
    model = find(request, body.model, (*tasks.ENCODER_TASKS, "generate"))
    texts, _ = batch(body.inputs)
    prompt = ""
    if body.prompt_name is not None:
        prompt = prompt_of(model, body.prompt_name)
    texts = [prompt + str(text) for text in texts]
    rows = await encoders.tokenize(request, model, texts, body.add_special_tokens)
    pairs = zip(texts, rows, strict=True)
    return reply([[token_of(text, token) for token in row] for text, row in pairs])


async def decode(request: Request, body: DecodeBody) -> Reply:
    """A text for each list of ids."""
    model = find(request, body.model, (*tasks.ENCODER_TASKS, "generate"))
    ids, _ = batch(body.ids, "ids")
    rows: Any = ids
    return reply(
        await encoders.decode(request, model, rows, skip_special_tokens=body.skip_special_tokens)
    )


def find(request: Request, named: str | None, kinds: tuple[str, ...]) -> ModelInfo:
    """The model of a request, by path, ``model`` field or task."""
    model = request.gateway.models.find((request.model, named), kinds)
    request.labels["model"] = model.name
    return model


async def scored(
    request: Request, model: ModelInfo, pairs: list[tuple[str, str | None]], body: PredictBody
) -> tuple[Floats, int]:
    """Scores of every label, by a classifier or by a reranker, which takes pairs only."""
    parameters = {**body.truncation().parameters(), "raw_scores": body.raw_scores}
    if body.prompt_name is not None and any(second for _, second in pairs):
        raise ValidationError("`prompt_name` cannot be set with dual inputs")
    with exact_messages(model):
        if model.task == "classify":
            return await encoders.classify(request, model, pairs, parameters)
        found, total = [], 0
        for first, second in pairs:
            if second is None:
                raise UnsupportedModel(
                    f"model {model.name!r} scores pairs; a classifier of single texts with one "
                    "label is served with task=classify"
                )
            scores, count = await encoders.rerank(request, model, first, [second], parameters)
            found.append(scores)
            total += count
    return np.stack(found), total


def labels_of(model: ModelInfo, scores: Floats) -> list[dict[str, Any]]:
    """Labels with scores, the best first; equal ones in the model's order."""
    names = model.labels or tuple(f"LABEL_{i}" for i in range(len(scores)))
    order = np.argsort(-scores, kind="stable").tolist()
    values = scores.tolist()
    return [{"score": values[i], "label": names[i]} for i in order]


def prompt_of(model: ModelInfo, name: str) -> str:
    """The text behind a prompt's name."""
    if name not in model.prompts:
        known = ", ".join(sorted(model.prompts)) or "none"
        raise ValidationError(f"`prompt_name` is {name!r}; the model has: {known}")
    return model.prompts[name]


def check_dimensions(model: ModelInfo, dimensions: int | None) -> None:
    """Raises ValidationError, in TEI's words."""
    if dimensions is None:
        return
    if dimensions < 1:
        raise ValidationError("`dimensions` should be positive")
    width = int(model.facts.get("dimensions") or dimensions)
    if dimensions > width:
        raise ValidationError(
            f"`dimensions` should be smaller than the maximum embedding dimension {width}. "
            f"Given: {dimensions}"
        )


class exact_messages:
    """Says "too long" in TEI's words, with the numbers of the server's message."""

    def __init__(self, model: ModelInfo) -> None:
        self._model = model

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, ValidationError):
            return
        found = re.search(r"has (\d+) tokens", str(error))
        if found:
            limit = self._model.max_input_tokens
            raise ValidationError(
                f"`inputs` must have less than {limit} tokens. Given: {found[1]}"
            ) from error


def _embed_parameters(body: EmbedBody) -> dict[str, Any]:
    return {
        **body.truncation().parameters(),
        "normalize": None if body.normalize else False,
        "dimensions": body.dimensions,
    }


def pairs_of(
    inputs: str | list[str] | list[list[str]],
) -> tuple[list[tuple[str, str | None]], bool]:
    """Texts with their partners, and whether it was a single one. ``[a, b]`` is one pair."""
    if isinstance(inputs, str):
        rows: list[list[str]] = [[inputs]]
        is_single = True
    else:
        is_single = bool(inputs) and isinstance(inputs[0], str)
        rows = [[str(text) for text in inputs]] if is_single else [list(row) for row in inputs]
    if not rows or any(not any(row) for row in rows):
        raise EmptyInputError("`inputs` cannot be empty")
    if any(len(row) > 2 for row in rows):
        raise ValidationError("`inputs` must be one text, a pair, or a list of those")
    return [(row[0], row[1] if len(row) == 2 else None) for row in rows], is_single


def token_of(text: str, token: TextToken) -> dict[str, Any]:
    """A token of a text, with its place in bytes instead of characters."""
    found = token._asdict()
    if token.start is None or token.stop is None or text.isascii():
        return found
    before = len(text[: token.start].encode())
    return {
        **found, "start": before, "stop": before + len(text[token.start : token.stop].encode()),
    }  # fmt: skip


def _characters(items: encoders.Items) -> int:
    return sum(map(len, items))

"""Embedding, scoring and ranking with TEI's checks and messages, for its routes and gRPC."""

from __future__ import annotations

import numpy as np

from atoll_client import scores, tasks
from atoll_client.errors import EmptyInputError, UnsupportedModel, ValidationError
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.encoders import Encoder, Items, Parameters, check_batch, read_items
from atoll_client.gateway.core.web import Request
from atoll_client.gateway.tei import schemas
from atoll_client.gateway.tei.answers import Prediction, RankedText, SparseEntry
from atoll_client.gateway.tei.errors import TeiMessages
from atoll_client.scores import Scores
from atoll_client.types import Embeddings, Floats, ModelInfo

# A text and the second one of its pair.
Pair = tuple[str, str | None]


async def vectors(request: Request, context: Context, body: schemas.EmbedBody) -> Embeddings:
    """Dense vectors of texts or token ids."""
    encoder, items = _read(request, context, body, "embed")
    check_dimensions(encoder.model, body.dimensions)
    parameters = {
        **body.cut(),
        "normalize": None if body.normalize else False,
        "dimensions": body.dimensions,
    }
    with TeiMessages(encoder.model):
        return await encoder.embed(items, parameters)


async def token_vectors(
    request: Request, context: Context, body: schemas.EmbedAllBody
) -> tuple[list[Floats], int]:
    """A vector for each token, (tokens, width) for each text, and the number of input tokens."""
    encoder, items = _read(request, context, body, "embed", "multi_vector")
    if encoder.model.task == "multi_vector" and not isinstance(items[0], str):
        raise ValidationError.of("inputs", "must be texts: queries and documents are marked")
    with TeiMessages(encoder.model):
        return await encoder.embed_all(items, body.cut())


async def sparse_vectors(
    request: Request, context: Context, body: schemas.EmbedSparseBody
) -> tuple[list[list[SparseEntry]], int]:
    """Sparse vectors, and the number of input tokens."""
    encoder, items = _read(request, context, body, "sparse")
    with TeiMessages(encoder.model):
        rows, count = await encoder.embed_sparse(items, body.cut())
    found: list[list[SparseEntry]] = [
        [{"index": i, "value": v} for i, v in zip(*map(np.ndarray.tolist, row), strict=True)]
        for row in rows
    ]
    return found, count


async def ranked_texts(
    request: Request, context: Context, body: schemas.RerankBody
) -> tuple[list[RankedText], int]:
    """Texts by score, best first, and the number of input tokens."""
    model = context.find(request, body.model, tasks.RANKING_TASKS)
    if not body.texts:
        raise EmptyInputError("`texts` cannot be empty")
    if not body.query:
        raise EmptyInputError("`inputs` cannot be empty")
    check_batch(request, context, len(body.texts), model)
    with TeiMessages(model):
        encoder = Encoder(request, context, model)
        found, count = await ranked(encoder, body.query, body.texts, body.cut(), body.raw_scores)
    ranks: list[RankedText] = [{"index": i, "score": found.values[i]} for i in found.order]
    if body.return_text:
        for rank in ranks:
            rank["text"] = body.texts[rank["index"]]
    return ranks, count


def check_labels(body: schemas.PredictBody) -> None:
    """Raises ValidationError: a field that is for models that label tokens."""
    for name in body.entity_fields:
        raise ValidationError.of(name, "is for models that label tokens")


async def ranked(
    encoder: Encoder, query: str | list[str], texts: list[str], parameters: Parameters, is_raw: bool
) -> tuple[Scores, int]:
    """A reranker's scores of texts, or of pairs, and the number of input tokens."""
    logits, count = await encoder.rerank(query, texts, parameters)
    return scores.of_texts(logits, scores.activation_of(encoder.model, 1, is_raw)), count


async def scored(
    encoder: Encoder, pairs: list[Pair], body: schemas.PredictBody
) -> tuple[list[Scores], int]:
    """Scores of every label, of a classifier or of a reranker, which takes only pairs."""
    logits, count = await logits_of(encoder, pairs, body)
    activation = scores.activation_of(encoder.model, logits.shape[-1], body.raw_scores)
    return scores.of_labels(logits, activation), count


async def logits_of(
    encoder: Encoder, pairs: list[Pair], body: schemas.PredictBody
) -> tuple[Floats, int]:
    """Logits, (texts, labels), and the number of input tokens."""
    model = encoder.model
    if body.prompt_name is not None:
        if any(second is not None for _, second in pairs):
            raise ValidationError("`prompt_name` cannot be set with dual inputs")
        prompt = prompt_of(model, body.prompt_name)
        pairs = [(prompt + first, None) for first, _ in pairs]
    parameters = {**body.cut(), "prompt_name": None}
    with TeiMessages(model):
        if model.task == "classify":
            return await encoder.classify(pairs, parameters)
        seconds = [second for _, second in pairs if second is not None]
        if len(seconds) < len(pairs):
            raise UnsupportedModel(
                f"model {model.name!r} scores pairs; a classifier of single texts with one "
                "label is served with task=classify"
            )
        return await encoder.rerank([first for first, _ in pairs], seconds, parameters)


def labels_of(model: ModelInfo, found: Scores) -> list[Prediction]:
    """Labels with scores, best first; labels with equal scores in the model's order."""
    return [{"score": one.score, "label": one.label} for one in tasks.labelled(model, found)]


def prompt_of(model: ModelInfo, name: str) -> str:
    """The prompt of that name.

    Raises:
        ValidationError: the model has no such prompt.
    """
    if name not in model.prompts:
        known = ", ".join(sorted(model.prompts)) or "none"
        raise ValidationError.of("prompt_name", f"is {name!r}; the model has: {known}")
    return model.prompts[name]


def check_prompt(model: ModelInfo, items: Items, name: str | None) -> None:
    """Raises ValidationError: the model has no such prompt, or the inputs are token ids."""
    if name is None:
        return
    prompt_of(model, name)
    if not isinstance(items[0], str):
        raise ValidationError.of(
            "prompt_name", "cannot be set with token ids, which are taken as they are"
        )


def check_dimensions(model: ModelInfo, dimensions: int | None, field: str = "dimensions") -> None:
    """Raises ValidationError, in TEI's words."""
    if dimensions is None:
        return
    if dimensions < 1:
        raise ValidationError.of(field, "should be positive")
    width = int(model.facts.get("dimensions") or dimensions)
    if dimensions > width:
        raise ValidationError.of(
            field,
            f"should be smaller than the maximum embedding dimension {width}. Given: {dimensions}",
        )


def _read(
    request: Request, context: Context, body: schemas.VectorsBody, *kinds: str
) -> tuple[Encoder, Items]:
    model = context.find(request, body.model, kinds)
    items = read_items(model, body.inputs)
    check_batch(request, context, len(items), model)
    check_prompt(model, items, body.prompt_name)
    return Encoder(request, context, model), items


def pairs_of(inputs: str | list[str] | list[list[str]]) -> tuple[list[Pair], bool]:
    """Texts with the second one of each pair, and whether there is a single input.

    ``[a, b]`` is one pair.
    """
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

"""Entities of texts, as of transformers' pipeline: ``/predict`` and ``POST /``."""

from __future__ import annotations

from pydantic import Field

from atoll_client.errors import EmptyInputError, ValidationError
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.encoders import Encoder, check_batch, timing_headers
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.tei import answers
from atoll_client.gateway.tei.errors import TeiMessages
from atoll_client.gateway.tei.schemas import EntityOptions, PredictBody
from atoll_client.types import Entity

TASK = "token_classify"
Entities = list[answers.Entity]


class TokenClassificationBody(PredictBody):
    """POST / of a token classifier; Hugging Face's clients send the options in ``parameters``."""

    parameters: EntityOptions = Field(default_factory=EntityOptions)


async def token_classification(
    request: Request, context: Context, body: TokenClassificationBody
) -> Reply[Entities | list[Entities]]:
    """POST / of a token classifier."""
    return reply(*await entities(request, context, body, body.parameters))


async def entities(
    request: Request, context: Context, body: PredictBody, options: EntityOptions
) -> tuple[Entities | list[Entities], dict[str, str]]:
    """The entities of a text, or of each text of a list, and TEI's headers.

    options: those that are not fields of ``body``.
    """
    model = context.find(request, body.model, (TASK,))
    texts, is_single = _texts(body)
    for name in set(body.entity_fields) & set(options.entity_fields):
        if getattr(body, name) != getattr(options, name):
            raise ValidationError.of(f"parameters.{name}", f"is another one than `{name}`")
    check_batch(request, context, len(texts), model)
    strategy = body.aggregation_strategy or options.aggregation_strategy
    ignored = options.ignore_labels if body.ignore_labels is None else body.ignore_labels
    parameters = {**body.cut(), "prompt_name": None, "aggregation_strategy": strategy}
    with TeiMessages(model):
        encoder = Encoder(request, context, model)
        found, count = await encoder.classify_tokens(texts, ignored, parameters)
    rows = [list(map(_answer, row)) for row in found]
    headers = timing_headers(request, count, sum(map(len, texts)))
    return rows[0] if is_single else rows, headers


def _texts(body: PredictBody) -> tuple[list[str], bool]:
    """The texts, and whether there is a single one. A list of texts is no pair here.

    Raises:
        EmptyInputError: there are none, or one is empty.
        ValidationError: a pair, or a field that is for other classifiers.
    """
    for name in ("prompt_name", "raw_scores"):
        if getattr(body, name):
            raise ValidationError.of(name, "has no meaning for a model that labels tokens")
    given = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    rows = [[row] if isinstance(row, str) else row for row in given]
    if not rows or any(not any(row) for row in rows):
        raise EmptyInputError("`inputs` cannot be empty")
    if any(len(row) > 1 for row in rows):
        raise ValidationError("`inputs` has a pair; a model that labels tokens takes single texts")
    return [row[0] for row in rows], isinstance(body.inputs, str)


def _answer(found: Entity) -> answers.Entity:
    if found.index is None:
        return {
            "entity_group": found.label, "score": found.score, "word": found.word,
            "start": found.start, "end": found.end,
        }  # fmt: skip
    return {
        "entity": found.label, "score": found.score, "index": found.index, "word": found.word,
        "start": found.start, "end": found.end,
    }  # fmt: skip

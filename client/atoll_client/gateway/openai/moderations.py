"""OpenAI's moderations, answered by a classifier.

The categories are the classifier's labels. A text is flagged by a label that is not among the
setting ``moderation_safe_labels``: the likeliest one, or, of a classifier that gives several labels
at once, each with a score of 0.5 or more.
"""

from __future__ import annotations

import secrets
from typing import Literal

from pydantic import Field
from typing_extensions import TypedDict

from atoll_client import scores
from atoll_client.errors import EmptyInputError, NotFound, ValidationError
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.encoders import Encoder
from atoll_client.gateway.core.schemas import Strict
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.tei.errors import TeiMessages
from atoll_client.gateway.tei.inference import labels_of

_TASK = ("classify",)
_OPENAI = ("omni-moderation", "text-moderation")
_THRESHOLD = 0.5


class TextInput(Strict):
    """A part of the input."""

    type: Literal["text"]
    text: str


class ModerationsBody(Strict):
    """POST /v1/moderations. OpenAI's own names of models mean the default one."""

    input: str | list[str] | list[TextInput]
    model: str | None = None
    truncate: bool = Field(
        False, description="cut texts that are too long; otherwise they are refused"
    )


class Moderation(TypedDict):
    """One text's categories, which are the classifier's labels."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


class Moderations(TypedDict):
    """A result for each text; several parts of one input are one text."""

    id: str
    model: str
    results: list[Moderation]


async def moderations(
    request: Request, context: Context, body: ModerationsBody
) -> Reply[Moderations]:
    """Labels of texts, and whether one of them flags the text.

    Raises:
        NotFound: no classifier is served.
    """
    name = None if (body.model or "").startswith(_OPENAI) else body.model
    if name is None and request.model is None and context.models.default(_TASK) is None:
        raise NotFound("no model here can classify, and moderations are a classifier's labels")
    model = context.find(request, name, _TASK)
    texts = _texts(body)
    with TeiMessages(model, "input"):
        pairs = [(text, None) for text in texts]
        options = {"truncate": body.truncate}
        logits, _ = await Encoder(request, context, model).classify(pairs, options)
    activation = scores.activation_of(model, logits.shape[-1], False)
    if activation not in ("softmax", "sigmoid"):
        raise ValidationError.of("model", f"{model.name!r} gives numbers, not labels")
    named = context.settings.moderation_safe_labels.split(",")
    safe = {label.strip().casefold() for label in named}
    rows = scores.of_labels(logits, activation)
    results = [
        _result({one["label"]: one["score"] for one in labels_of(model, row)}, activation, safe)
        for row in rows
    ]
    identity = f"modr-{secrets.token_hex(12)}"
    return reply({"id": identity, "model": model.name, "results": results})


def _texts(body: ModerationsBody) -> list[str]:
    given = [body.input] if isinstance(body.input, str) else body.input
    if not given:
        raise EmptyInputError("`input` cannot be empty")
    plain = [one for one in given if isinstance(one, str)]
    parts = [one.text for one in given if isinstance(one, TextInput)]
    return plain or ["\n".join(parts)]


def _result(found: dict[str, float], activation: str, safe: set[str]) -> Moderation:
    """found: scores by label, best first."""
    best = next(iter(found))
    given = {
        label: score >= _THRESHOLD if activation == "sigmoid" else label == best
        for label, score in found.items()
    }
    categories = {label: given[label] and label.casefold() not in safe for label in given}
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": found,
        "category_applied_input_types": {label: ["text"] for label in found},
    }

"""The list of models, in the shape of the interface that asks: Anthropic's clients name a version.

OpenAI and Anthropic have the same paths for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

from starlette.responses import Response

from atoll_client.errors import NotFound
from atoll_client.gateway.anthropic.answers import AnthropicModel, AnthropicModels
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.openai import embeddings as openai
from atoll_client.types import ModelInfo

_HEADER = "anthropic-version"
_STARTED = datetime.now(timezone.utc).isoformat()


async def models(request: Request, context: Context, body: None) -> Response:
    """GET /v1/models."""
    handler = generators if _HEADER in request.headers else openai.models
    return await handler(request, context, None)


async def model(request: Request, context: Context, body: None) -> Response:
    """GET /v1/models/{model}."""
    handler = generator if _HEADER in request.headers else openai.model
    return await handler(request, context, None)


async def generators(request: Request, context: Context, body: None) -> Reply[AnthropicModels]:
    """Every model that answers messages, and every LoRA adapter as a model of its own."""
    found = list(_cards(context))
    first, last = (found[0]["id"], found[-1]["id"]) if found else (None, None)
    return reply({"data": found, "has_more": False, "first_id": first, "last_id": last})


async def generator(request: Request, context: Context, body: None) -> Reply[AnthropicModel]:
    """The one that the path names.

    Raises:
        NotFound: no model that answers messages is called so.
    """
    name = request.path_params["model"]
    found = context.models.named(name)
    if found is None or found.task != "generate":
        raise NotFound(f"model {name!r} is not served")
    return reply(_card(name, found))


def _cards(context: Context) -> Iterator[AnthropicModel]:
    for found in context.models.all():
        if found.task == "generate":
            for name in (found.name, *found.adapters):
                yield _card(name, found)


def _card(name: str, model: ModelInfo) -> AnthropicModel:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": _STARTED,
        "lifecycle": "active",
        "max_input_tokens": model.max_input_tokens,
        "max_tokens": int(model.facts.get("max_total_tokens") or model.max_input_tokens),
    }

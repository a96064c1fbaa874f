"""OpenAI's embeddings, and the list of models."""

from __future__ import annotations

import base64
import time

from atoll_client.embeddings import takes_images
from atoll_client.errors import NotFound, ValidationError
from atoll_client.gateway.core import encoders
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.embed_parts import Part, check_images, embed_parts
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.openai.answers import (
    Embedding,
    EmbeddingList,
    ModelCard,
    ModelList,
    input_usage,
)
from atoll_client.gateway.openai.embeddings_schemas import EmbeddingsBody
from atoll_client.gateway.tei.errors import TeiMessages
from atoll_client.gateway.tei.inference import check_dimensions, check_prompt
from atoll_client.types import Floats, ModelInfo


async def embeddings(
    request: Request, context: Context, body: EmbeddingsBody
) -> Reply[EmbeddingList]:
    """Vectors, normalized by default; base64 encodes little-endian float32."""
    model = context.find(request, body.model, ("embed",))
    check_dimensions(model, body.dimensions)
    parameters = {
        **body.cut(),
        "dimensions": body.dimensions,
        "normalize": None if body.normalize else False,
    }
    encoder, parts = encoders.Encoder(request, context, model), body.parts()
    if parts is not None:
        field = "input" if body.messages is None else "messages"
        _check_parts(model, parts, body)
        _count(request, len(parts))
        found = await embed_parts(
            encoder, parts, parameters, field, lambda at: TeiMessages(model, field, places=at)
        )
    else:
        items = encoders.read_items(model, body.texts(), "input")
        check_prompt(model, items, body.prompt_name)
        _count(request, len(items))
        with TeiMessages(model, "input"):
            found = await encoder.embed(items, parameters)
    count = sum(found.num_tokens.tolist())
    is_base64 = body.encoding_format == "base64"
    data: list[Embedding] = [
        {"object": "embedding", "index": i, "embedding": _packed(row) if is_base64 else row}
        for i, row in enumerate(found.vectors)
    ]
    return reply({"object": "list", "data": data, "model": model.name, "usage": input_usage(count)})


async def models(request: Request, context: Context, body: None) -> Reply[ModelList]:
    """Every model, and every LoRA adapter as a model of its own."""
    data: list[ModelCard] = []
    for model in context.models.all():
        data.append(_card(model, model.name, None))
        data += [_card(model, name, model.name) for name in model.adapters]
    return reply({"object": "list", "data": data})


async def model(request: Request, context: Context, body: None) -> Reply[ModelCard]:
    """The model that the path names."""
    name = request.path_params["model"]
    found = context.models.named(name)
    if found is None:
        raise NotFound(f"model {name!r} is not served")
    return reply(_card(found, name, found.name if name in found.adapters else None))


def _card(model: ModelInfo, name: str, parent: str | None) -> ModelCard:
    return {
        "id": name,
        "object": "model",
        "created": _STARTED,
        "owned_by": "atoll",
        "root": model.public_id,
        "parent": parent,
        "task": model.task,
        "max_model_len": model.facts.get("max_total_tokens") or model.max_input_tokens,
    }


def _check_parts(model: ModelInfo, parts: list[Part], body: EmbeddingsBody) -> None:
    """Raises ValidationError: the model embeds texts alone, or has no such prompt; or something is
    asked of texts, and there are none.
    """
    if body.messages is None:
        check_images(model, "input")
    elif not takes_images(model):
        raise ValidationError.of(
            "messages", f"is for models of texts and images; {model.name} embeds texts alone, see "
            "`input`",
        )  # fmt: skip
    texts = [part for part in parts if isinstance(part, str)]
    if texts:
        check_prompt(model, texts, body.prompt_name)
    else:
        body.check_images_alone()


def _count(request: Request, num_items: int) -> None:
    # TEI has this route too: it counts in TEI's metrics.
    request.labels.update(kind="tei", method="batch" if num_items > 1 else "single")


def _packed(row: Floats) -> str:
    return base64.b64encode(row.astype("<f4", copy=False).tobytes()).decode("ascii")


_STARTED = int(time.time())

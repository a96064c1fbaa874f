"""Cohere's embeddings (v2): float32 vectors of texts in several number formats."""

from __future__ import annotations

import base64
import secrets
from typing import Any, cast

import numpy as np

from atoll_client.errors import ValidationError
from atoll_client.gateway.cohere.schemas import CohereEmbedBody, CohereEmbeddings, EmbeddingsByType
from atoll_client.gateway.core import encoders
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.embed_parts import embed_parts
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.openai.embeddings_schemas import cut
from atoll_client.gateway.tei.errors import TeiMessages
from atoll_client.gateway.tei.inference import check_dimensions
from atoll_client.types import Floats, ModelInfo

# input_type -> names of prompts that mean the same; sentence-transformers' come first.
_PROMPTS = {
    "search_query": ("query", "search_query"),
    "search_document": ("document", "passage", "search_document"),
    "classification": ("classification",),
    "clustering": ("clustering",),
    "image": (),
}


async def embed(
    request: Request, context: Context, body: CohereEmbedBody
) -> Reply[CohereEmbeddings]:
    """Normalized vectors, with the prompt that the model has for the input type."""
    model = context.find(request, body.model, ("embed",))
    check_dimensions(model, body.output_dimension, "output_dimension")
    _check_bits(model, body)
    name, warnings = prompt_name(model, body.input_type)
    parameters = {**cut(body.truncate, None, name), "dimensions": body.output_dimension}
    encoder, (field, parts) = encoders.Encoder(request, context, model), body.parts()
    num_inputs = len(body.texts or ()) if parts is None else len(parts)
    request.labels.update(kind="tei", method="batch" if num_inputs > 1 else "single")
    if parts is not None:
        if body.truncate == "START" and not any(isinstance(part, str) for part in parts):
            raise ValidationError.of("truncate", "is for texts, and there are images alone")
        found = await embed_parts(
            encoder, parts, parameters, field, lambda at: TeiMessages(model, field, places=at)
        )
    else:
        _check_type_of_texts(body)
        items = encoders.read_items(model, body.texts or [], field)
        with TeiMessages(model, field):
            found = await encoder.embed(items, parameters)
    count = sum(found.num_tokens.tolist())
    meta: dict[str, Any] = {
        "api_version": {"version": "2"},
        "billed_units": {"input_tokens": count},
        "prompt_name": name,
    }
    answer: CohereEmbeddings = {
        "id": f"embed-{secrets.token_hex(12)}",
        "embeddings": by_type(found.vectors, body.embedding_types),
        "meta": {**meta, "warnings": warnings} if warnings else meta,
        "response_type": "embeddings_by_type",
    }
    if body.texts is not None:
        answer["texts"] = body.texts
    return reply(answer)


def prompt_name(model: ModelInfo, input_type: str | None) -> tuple[str | None, list[str]]:
    """The model's prompt for an input type, and a warning if it has none but has others."""
    if input_type in (None, "image"):
        return None, []
    known = {name.lower(): name for name in model.prompts}
    found = next((known[one] for one in _PROMPTS[input_type] if one in known), None)
    if found is not None or not known:
        return found, []
    names = ", ".join(sorted(model.prompts))
    return None, [
        f"input_type is {input_type!r}, for which the model has no prompt; it has: {names}. The "
        "texts have its default prompt, if there is one"
    ]


def by_type(vectors: Floats, types: list[Any]) -> EmbeddingsByType:
    """Vectors (texts, width) in the requested types.

    int8: each vector is scaled so that its greatest value is 127; uint8 is the same plus 128.
    ubinary: a bit for each value, 1 if it is positive, eight to a byte, the first one highest;
    binary is the same minus 128. base64: little-endian float32.
    """
    found: dict[str, Any] = {}
    greatest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True, initial=0.0), 1e-30)
    integers = np.rint(vectors / greatest * 127).astype(np.int16)
    bits = np.packbits(vectors > 0, axis=1).astype(np.int16)
    for kind in types:
        if kind == "float":
            found[kind] = vectors
        elif kind == "base64":
            rows = vectors.astype("<f4", copy=False)
            found[kind] = [base64.b64encode(row.tobytes()).decode("ascii") for row in rows]
        else:
            values = bits if kind.endswith("binary") else integers
            offset = {"uint8": 128, "binary": -128}.get(kind, 0)
            found[kind] = (values + offset).tolist()
    return cast(EmbeddingsByType, found)


def _check_type_of_texts(body: CohereEmbedBody) -> None:
    if body.input_type == "image":
        raise ValidationError.of("input_type", "is 'image', and the inputs are texts")


def _check_bits(model: ModelInfo, body: CohereEmbedBody) -> None:
    """Raises ValidationError: the values of a vector do not fill bytes of bits."""
    width = body.output_dimension or int(model.facts.get("dimensions") or 0)
    packed = [kind for kind in body.embedding_types if kind in ("binary", "ubinary")]
    if packed and width % 8:
        raise ValidationError.of(
            "embedding_types", f"has {packed[0]!r}, but vectors have {width} values: no multiple "
            "of 8",
        )  # fmt: skip

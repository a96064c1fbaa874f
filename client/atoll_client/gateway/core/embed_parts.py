"""Texts and images in one request: the parts of OpenAI's and Cohere's bodies, and their vectors.

Images are data URIs, which the model decodes and checks; nothing is ever fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from atoll_client.embeddings import takes_images
from atoll_client.errors import ValidationError
from atoll_client.gateway.core.encoders import Encoder, Parameters
from atoll_client.gateway.core.fields import no_effect
from atoll_client.gateway.core.rewording import Reworded
from atoll_client.gateway.core.schemas import Strict
from atoll_client.types import Embeddings, ModelInfo

# Parameters of images; the others are for texts.
_OF_IMAGES = ("dimensions", "normalize")


class ImageUrl(Strict):
    """Where an image is: in the URI itself."""

    url: str
    detail: str | None = no_effect("images get the size that the model takes")


class ContentPart(Strict):
    """A text or an image."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None


class ImageUri(NamedTuple):
    """An image as a data URI."""

    uri: str


Part = str | ImageUri


def only_part(content: str | Sequence[ContentPart], field: str) -> Part:
    """The one text or image that a vector is of.

    Raises:
        ValidationError: there are several, or none; or a part lacks what its type says, or has
            more.
    """
    if isinstance(content, str):
        return content
    if len(content) != 1:
        raise ValidationError.of(
            field, f"has {len(content)} parts; a vector is of one text or one image"
        )
    part = content[0]
    found: Part | None = part.text
    if part.type == "image_url":
        found = None if part.image_url is None else ImageUri(part.image_url.url)
    if found is None:
        raise ValidationError.of(field, f"has a part of the type {part.type!r} without it")
    if part.text is not None and part.image_url is not None:
        raise ValidationError.of(field, "has a part with a text and an image_url")
    return found


def check_images(model: ModelInfo, field: str) -> None:
    """Raises ValidationError: the model embeds texts alone."""
    if not takes_images(model):
        raise ValidationError.of(field, f"has images; {model.name} embeds texts alone")


async def embed_parts(
    encoder: Encoder,
    parts: Sequence[Part],
    parameters: Parameters,
    field: str,
    reworded: Callable[[Sequence[int]], Reworded],
) -> Embeddings:
    """Vectors of all parts, in order.

    field: that holds them, for errors. reworded: for the model's errors about rows, given the place
    of each row in the field.

    Raises:
        ValidationError: the model takes no images; or one of them, or a text, cannot be used.
    """
    texts = [at for at, part in enumerate(parts) if isinstance(part, str)]
    images = [at for at, part in enumerate(parts) if not isinstance(part, str)]
    calls = []
    if texts:
        found = [part for part in parts if isinstance(part, str)]
        calls.append(_named(encoder.embed(found, parameters), reworded(texts)))
    if images:
        check_images(encoder.model, field)
        if parameters.get("prompt_name") is not None:
            raise ValidationError.of("prompt_name", "is for texts, and there are images")
        uris = [part.uri for part in parts if isinstance(part, ImageUri)]
        some = {name: parameters.get(name) for name in _OF_IMAGES}
        calls.append(_named(encoder.embed_images(uris, some), reworded(images)))
    answers = await asyncio.gather(*calls)
    order = np.argsort([*texts, *images])
    return Embeddings(
        np.concatenate([one.vectors for one in answers])[order],
        np.concatenate([one.num_tokens for one in answers])[order],
    )


async def _named(work: Awaitable[Embeddings], messages: Reworded) -> Embeddings:
    with messages:
        return await work

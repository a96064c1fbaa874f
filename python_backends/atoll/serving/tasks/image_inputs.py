"""The images of a request to a model for texts and images, and its texts as that model takes them.

Images are decoded by the preparation threads; requests hold them encoded until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from atoll.config import Settings
from atoll.encoders.embedder import EmbedOptions
from atoll.encoders.two_tower_embedder import TwoTowerEmbedder
from atoll.errors import ConfigError, ValidationError
from atoll.images.reader import FORMATS, ImageLimits
from atoll.serving.requests.encoder_request import Work
from atoll.serving.tasks.served_model import Effort
from atoll.serving.triton import tensors
from atoll.text.text_encoder import Encoded
from atoll.text.tokenizer import Tokenizer

# The tensor that holds them.
IMAGE = "image"
# Of texts alone.
_OF_TEXTS = ("truncate", "truncation_direction", "prompt_name", "input_type")
# Beyond this, decoding may take a second.
_MANY_BYTES = 8_000_000


class ImageInputs:
    """Reads and decodes the images that an embedder takes, and fills its texts up."""

    def __init__(self, encoder: TwoTowerEmbedder, tokenizer: Tokenizer, settings: Settings) -> None:
        """Raises ConfigError: texts have to be filled up, and there is no padding token."""
        self._encoder = encoder
        self._limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
        self._padding: int | None = None
        if encoder.padded_length is not None:
            token = tokenizer.special_tokens.get("pad_token", "")
            self._padding = tokenizer.core.token_to_id(token)
            if self._padding is None:
                raise ConfigError(
                    f"{encoder.folder}: the tokenizer has no pad_token, with which texts are "
                    f"filled up to {encoder.padded_length} tokens"
                )

    def facts(self) -> dict[str, Any]:
        """What clients can know of images."""
        return {
            "modalities": ["text", "image"],
            "image_formats": list(FORMATS),
            "image_size": self._encoder.images.image_size,
            "tokens_per_image": self._encoder.tokens_per_image,
            "max_image_bytes": self._limits.max_bytes,
            "max_image_pixels": self._limits.max_pixels,
        }

    def work(
        self, request: Any, given: dict[str, Any], images: Sequence[bytes], options: EmbedOptions
    ) -> Work:
        """A request's images, still encoded.

        Raises:
            ValidationError: there are texts besides, or what only texts have.
        """
        for name in ("text_input", "input_ids"):
            if tensors.has(request, name):
                raise ValidationError(f"give either {IMAGE} or {name}, one request for each")
        named = next((name for name in _OF_TEXTS if given.get(name) is not None), None)
        if options.return_token_embeddings:
            named = "return_token_embeddings"
        if named is not None:
            raise ValidationError(f"{named} is {given[named]!r}, with {IMAGE}; it is for texts")
        return Work(IMAGE, options, images=tuple(images))

    def rows(self, work: Work) -> list[Encoded]:
        """The pixels of each image.

        Raises:
            ValidationError: see ``ImageProcessor.patches``.
        """
        ids = np.zeros(self._encoder.tokens_per_image, np.int32)
        read = self._encoder.images.patches
        return [
            Encoded(ids, None, pixels=read(f"{work.name}[{row}]", image, self._limits))
            for row, image in enumerate(work.images)
        ]

    def filled(self, rows: list[Encoded]) -> list[Encoded]:
        """Texts with padding up to the length that the model was trained with, if it was so."""
        length, padding = self._encoder.padded_length, self._padding
        if length is None or padding is None:
            return rows
        return [_filled(row, length, padding) for row in rows]


def effort_of(images: Sequence[bytes]) -> Effort:
    """How much work it is to decode a request's images."""
    return Effort.MUCH if sum(map(len, images)) > _MANY_BYTES else Effort.ORDINARY


def _filled(row: Encoded, length: int, padding: int) -> Encoded:
    missing = length - len(row.ids)
    ids = np.append(row.ids, np.full(missing, padding, np.int32))
    return replace(row, ids=ids, num_padding=missing)

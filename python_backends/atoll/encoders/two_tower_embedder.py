"""Texts and images to vectors of one space: see ``layers.two_towers``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atoll.config import Settings
from atoll.encoders.embedder import Embedder, EmbedOptions
from atoll.encoders.packer import Item, batch_of
from atoll.images.processor import ImageProcessor, Pixels
from atoll.layers import Batch
from atoll.layers.two_towers import TwoTowers


class TwoTowerEmbedder(Embedder):
    """A batch may hold texts and images; each trunk runs its own, packed.

    images: makes the pixels of ``Item.pixels``.
    """

    model: TwoTowers
    images: ImageProcessor

    def open_trunk(self, folder: Path, settings: Settings) -> tuple[Any, Mapping[str, Any]]:
        """See ``Encoder.open_trunk``; the trunk is that of texts."""
        self.model, raw = super().open_trunk(folder, settings)
        vision, model_type = self.model.config.vision, str(raw["model_type"])
        self.images = ImageProcessor.read(
            self.folder, model_type, vision.image_size, vision.patch_size
        )
        scaling, device = self.images.scaling, self.options.device
        # Of each value of a patch, which has one colour behind the other.
        self._factor = scaling.factor
        self._mean, self._std = (
            torch.tensor(values, device=device).repeat_interleave(vision.patch_size**2)
            for values in (scaling.mean, scaling.std)
        )
        return self.model.text, raw

    @property
    def pooled_size(self) -> int:
        """See ``Embedder``."""
        return self.model.config.width

    @property
    def padded_length(self) -> int | None:
        """Tokens to which every text has to be filled up; None: as many as it has."""
        return self.model.config.padded_length

    @property
    def tokens_per_image(self) -> int:
        """Rows of an image in a batch."""
        return self.model.config.vision.num_tokens

    def __call__(self, batch: Batch, items: Sequence[Item]) -> list[object]:
        """An ``Embedded``, or an error, per item."""
        places: dict[bool, list[int]] = {False: [], True: []}
        for index, item in enumerate(items):
            places[item.pixels is not None].append(index)
        results: list[object] = [None] * len(items)
        for is_image, indices in places.items():
            if not indices:
                continue
            some = [items[index] for index in indices]
            part = batch if len(some) == len(items) else batch_of(some, self.options.device)
            found = self._of_images(part, some) if is_image else super().__call__(part, some)
            for index, result in zip(indices, found, strict=True):
                results[index] = result
        return results

    @torch.inference_mode()
    def warm_up(self, max_batch_tokens: int) -> None:
        """See ``Encoder.warm_up``; an image, too."""
        super().warm_up(max_batch_tokens)
        if self.options.device.type == "cuda":
            vision = self.model.config.vision
            shape = (vision.patches_per_side**2, 3 * vision.patch_size**2)
            ids = np.zeros(self.tokens_per_image, np.int32)
            pixels = np.zeros(shape, np.uint8)
            item = Item(ids, lambda _: None, options=EmbedOptions(), pixels=pixels)
            self._of_images(batch_of([item], self.options.device), [item])

    def pooled(self, hidden: Tensor, batch: Batch) -> Tensor:
        """See ``Embedder.pooled``."""
        return self.model.text_vectors(hidden, batch).float()

    def _of_images(self, batch: Batch, items: Sequence[Item]) -> list[object]:
        batch = replace(batch, pixels=self._scaled([item.pixels for item in items]))
        hidden = self.model.vision(batch)
        vectors = self.model.image_vectors(hidden, batch).float()
        return self.results(hidden, vectors, batch, items)

    def _scaled(self, pixels: Sequence[Pixels | None]) -> Tensor:
        """(patches, values of a patch) of all images, in the activations' dtype."""
        joined = torch.from_numpy(np.concatenate([p for p in pixels if p is not None]))
        values = joined.to(self.options.device).float() * self._factor
        return ((values - self._mean) / self._std).to(self.options.dtype)

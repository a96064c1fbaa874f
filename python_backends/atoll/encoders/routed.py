"""A model's encoders for queries and for documents behind one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from atoll.encoders.encoder import Encoder
from atoll.encoders.packer import Item, batch_of
from atoll.layers import Batch


class RoutedEncoder:
    """Divides a batch by the routes of its items. encoders: by route."""

    def __init__(self, encoders: Mapping[str | None, Encoder], device: torch.device) -> None:
        self._encoders, self._device = encoders, device

    def __call__(self, batch: Batch, items: Sequence[Item]) -> list[object]:
        """See ``Encoder``."""
        results: list[object] = [None] * len(items)
        for route in {item.route: None for item in items}:
            places = [index for index, item in enumerate(items) if item.route == route]
            some = [items[index] for index in places]
            is_all = len(some) == len(items)
            part = batch if is_all else batch_of(some, self._device)
            encoder = self._encoders[route]
            for index, result in zip(places, encoder(part, some), strict=True):
                results[index] = result
        return results

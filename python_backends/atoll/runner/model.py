"""The interface of every architecture's ``Model``, as the runner uses it."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from atoll.layers.batch import Batch, CacheSpec, StateSpec


class Decoder(Protocol):
    """An architecture's ``Model``; its config has vocab_size and max_positions."""

    config: Any

    def __call__(self, batch: Batch) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...

    def cache_specs(self) -> list[CacheSpec]: ...

    def state_specs(self) -> list[StateSpec]: ...


class EncoderDecoder(Decoder, Protocol):
    """A model whose requests have ``encoder_ids``: ``encode`` runs before their first step."""

    def encode(self, batch: Batch) -> None: ...

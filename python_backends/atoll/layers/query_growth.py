"""Queries that grow with their position, so that attention stays sharp in long texts.

Times ``1 + beta * ln(1 + floor(position / trained))``, which is one for the positions of training
(Llama 4, Ministral 3).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atoll.layers.batch import Batch
from atoll.weights.json_fields import Fields

GROWTH = "llama_4_scaling_beta"
_TRAINED = "original_max_position_embeddings"


@dataclass(frozen=True)
class GrowthSpec:
    """beta: how much queries grow. trained: positions of the length that was trained on."""

    beta: float
    trained: int

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "GrowthSpec":
        """From the scaling of the rope, which keeps it.

        Raises:
            ConfigError: it is missing there, or no number; names the key.
        """
        fields = Fields(raw)
        # Of both, transformers takes the old name's.
        is_old = bool(fields.inside("rope_scaling").raw)
        scaling = fields.inside("rope_scaling" if is_old else "rope_parameters")
        return cls(scaling.number(GROWTH, above=None), scaling.size(_TRAINED))


class QueryGrowth:
    """The factors of a model's queries; all layers share the table, which grows with the positions
    asked for."""

    def __init__(self, spec: GrowthSpec, max_positions: int) -> None:
        self.spec, self.max_positions = spec, max_positions
        self._table: Tensor | None = None
        # Graphs that were captured over a smaller table go on reading it.
        self._outgrown: list[Tensor] = []

    def __call__(self, q: Tensor, batch: Batch) -> Tensor:
        """q: (tokens, heads, head_dim) -> the same shape."""
        # Made by the first step of all: what makes it would be part of a recorded one.
        factors = self._factors(batch.max_position + 1, q)
        if batch.max_position < self.spec.trained:
            return q
        return q * factors.index_select(0, batch.positions).view(-1, 1, 1)

    def _factors(self, length: int, like: Tensor) -> Tensor:
        """(positions >= length,) on the device of ``like``, and of its dtype."""
        if self._table is None or len(self._table) < length:
            if self._table is not None:
                self._outgrown.append(self._table)
            steps = torch.arange(max(length, self.max_positions)) // self.spec.trained
            factors = 1 + self.spec.beta * steps.float().log1p()
            self._table = factors.to(like.device, like.dtype)
        return self._table

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

_BETA, _TRAINED = "llama_4_scaling_beta", "original_max_position_embeddings"


@dataclass(frozen=True)
class QueryGrowth:
    """beta: how much queries grow. trained: positions of the length that was trained on."""

    beta: float
    trained: int

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "QueryGrowth":
        """From the scaling of the rope, which keeps it.

        Raises:
            ConfigError: it is missing there, or no number; names the key.
        """
        fields = Fields(raw)
        # Of both, transformers takes the old name's.
        is_old = bool(fields.inside("rope_scaling").raw)
        scaling = fields.inside("rope_scaling" if is_old else "rope_parameters")
        return cls(scaling.number(_BETA, above=None), scaling.size(_TRAINED))

    def __call__(self, q: Tensor, batch: Batch) -> Tensor:
        """q: (tokens, heads, head_dim) -> the same shape."""
        if batch.max_position < self.trained:
            return q
        steps = (batch.positions // self.trained).float()
        factors = 1 + self.beta * torch.log1p(steps)
        return q * factors.to(q.dtype).view(-1, 1, 1)

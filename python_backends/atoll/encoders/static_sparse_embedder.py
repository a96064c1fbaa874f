"""Texts to sparse vectors by a table alone: each word that a text has gets its own weight.

Source: sentence-transformers' ``SparseStaticEmbedding``; the query's side of inference-free sparse
retrieval, whose weights are inverse document frequencies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atoll.config import Settings
from atoll.encoders.encoder import Encoder
from atoll.encoders.packer import Item
from atoll.encoders.sparse_embedder import SparseVector
from atoll.errors import GenerationError, WeightError
from atoll.layers import Batch
from atoll.models.load_options import load_options
from atoll.weights.reader import CheckpointReader

_WEIGHT = "weight"


@dataclass(frozen=True)
class _Config:
    vocab_size: int
    hidden_size: int = 1


class _Table(nn.Module):
    """weights: (vocabulary,) float32."""

    def __init__(self, weights: Tensor, max_length: int) -> None:
        super().__init__()
        self.weights, self.max_length = weights, max_length
        self.config = _Config(len(weights))


class StaticSparseEmbedder(Encoder):
    """The weights of a text's words, without special tokens; repeated words count once."""

    task = "sparse"
    adds_special_tokens = False

    def open_trunk(self, folder: Path, settings: Settings) -> tuple[Any, Mapping[str, Any]]:
        """See ``Encoder.open_trunk``. On the CPU: a GPU has nothing to compute."""
        self.options = load_options(settings, {})
        reader = CheckpointReader(self.folder)
        weights = reader.tensor(_WEIGHT)
        left = sorted(set(reader.names()) - {_WEIGHT})
        if weights.dim() != 1 or left:
            raise WeightError(
                f"{self.folder}: {_WEIGHT} has shape {list(weights.shape)}, beside {left}; "
                "expected one number for each word and nothing else"
            )
        return _Table(weights.float(), settings.max_batch_tokens), {}

    def __call__(self, batch: Batch, items: Sequence[Item]) -> list[object]:
        """A ``SparseVector``, or an error, per item."""
        return [self._weights(item) for item in items]

    def _weights(self, item: Item) -> object:
        indices = np.unique(item.ids)
        values = self.trunk.weights[torch.from_numpy(indices).long()]
        if not bool(torch.isfinite(values).all()):
            return GenerationError("the sparse embedding is not finite (NaN or infinite)")
        most = self.spec.max_active_dims
        kept = values.nonzero().squeeze(1)
        if most is not None and most < len(kept):
            kept = values.topk(most).indices.sort().values
        return SparseVector(indices[kept.numpy()], values[kept].numpy())

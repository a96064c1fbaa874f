"""Texts to sparse vectors: a weight for each word of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from atoll.config import Settings
from atoll.encoders.encoder import Encoder
from atoll.encoders.heads import MaskedLanguageHead
from atoll.encoders.packer import Item
from atoll.errors import GenerationError
from atoll.layers import Batch

Floats = npt.NDArray[np.float32]
# Tokens whose scores for the whole vocabulary are in memory at once: 512 * 30522 * 4 bytes = 60 MB.
_VOCAB_ROWS = 512


class SparseVector(NamedTuple):
    """The words of the vocabulary with a positive weight."""

    indices: npt.NDArray[np.int32]
    values: Floats


class SparseEmbedder(Encoder):
    """Texts to SPLADE's weights of words (Formal et al. 2021): max of log(1 + relu(score)).

    A checkpoint may replace the maximum by the sum, and apply the logarithm twice.
    """

    task = "sparse"

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        self.head: MaskedLanguageHead | None = None
        if self.is_native:
            self.head = MaskedLanguageHead.load(self.folder, self.trunk, self.options)

    def __call__(self, batch: Batch, items: Sequence[Item]) -> list[object]:
        """A ``SparseVector``, or an error, per item."""
        if self.head is None:
            rows: list[object] = self.trunk.each(batch, self._weights)
            return rows
        hidden = self.hidden(batch)
        bounds = batch.cu_seqlens.tolist()
        return [
            self._weights(hidden[start:stop])
            for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
        ]

    def _weights(self, hidden: Tensor) -> object:
        """hidden: (tokens, hidden), or (tokens, vocab) where transformers has the head."""
        score = self.head or nn.Identity()
        parts = torch.stack([self._pooled(score(r)) for r in hidden.split(_VOCAB_ROWS)])
        is_sum = self.spec.splade.is_sum
        weights = (parts.sum(0) if is_sum else self._logs(parts.amax(0))).cpu()
        if not bool(torch.isfinite(weights).all()):
            return GenerationError("the sparse embedding is not finite (NaN or infinite)")
        if self.spec.max_active_dims is not None and self.spec.max_active_dims < len(weights):
            weights = _only_greatest(weights, self.spec.max_active_dims)
        indices = weights.nonzero().squeeze(1)
        return SparseVector(indices.int().numpy(), weights[indices].numpy())

    def _pooled(self, scores: Tensor) -> Tensor:
        """(tokens, vocab) -> (vocab,); the maximum comes before the logarithm, to save work."""
        return self._logs(scores).sum(0) if self.spec.splade.is_sum else scores.amax(0)

    def _logs(self, scores: Tensor) -> Tensor:
        weights = scores.float().relu()
        for _ in range(self.spec.splade.num_logs):
            weights = weights.log1p()
        return weights


def _only_greatest(weights: Tensor, count: int) -> Tensor:
    """Sets all but the ``count`` greatest to zero."""
    kept = weights.topk(count).indices
    return torch.zeros_like(weights).scatter(0, kept, weights[kept])

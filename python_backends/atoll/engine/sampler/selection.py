"""The choice of one token per row: the most likely one, or one drawn from the distribution."""

from __future__ import annotations

import torch
from torch import Tensor


def most_likely(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(rows,) int64 ids, and (rows,) bool: whether the row can be used (no NaN, no infinity).

    ``max`` hands a NaN through, so the check costs nothing beyond the choice.
    """
    best, ids = scores.max(-1)
    return ids, best.isfinite()


def draw(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Draws by the inverse of the cumulative distribution, in the order of the vocabulary.

    scores: (rows, vocab) float32, -inf for removed tokens. uniforms: (rows,) float64 in (0, 1).
    Returns (rows,) int64; a token of probability 0 is never drawn.
    """
    mass = scores.softmax(-1).cumsum(-1, dtype=torch.float64)
    point = uniforms.unsqueeze(1) * mass[:, -1:]
    ids = torch.searchsorted(mass, point, right=True)
    return ids.squeeze(1).clamp(max=scores.shape[-1] - 1)

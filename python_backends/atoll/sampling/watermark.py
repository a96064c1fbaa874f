"""The watermark of Kirchenbauer et al. 2023: a bias on a green list seeded by the last token."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

# Seeds the green list; transformers and TGI use the same prime.
HASHING_KEY = 15485863
_MAX_LISTS = 512


class Watermark:
    """Green lists of the vocabulary, one per preceding token; the most recent are cached.

    gamma: share of green tokens. delta: added to their scores.
    """

    def __init__(self, vocab_size: int, gamma: float, delta: float) -> None:
        self.vocab_size, self.gamma, self.delta = vocab_size, gamma, delta
        self._cached_list = lru_cache(_MAX_LISTS)(self.green_list)

    def green_list(self, last_token: int) -> Tensor:
        """(gamma * vocab,) int64, as in transformers' ``lefthash`` scheme."""
        generator = torch.Generator().manual_seed(HASHING_KEY * last_token % (2**64 - 1))
        order = torch.randperm(self.vocab_size, generator=generator)
        return order[: int(self.vocab_size * self.gamma)]

    def apply(self, scores: Tensor, last_token: int) -> None:
        """Mutates scores (vocab,)."""
        scores[self._cached_list(last_token).to(scores.device)] += self.delta

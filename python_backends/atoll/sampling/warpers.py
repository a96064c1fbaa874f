"""Temperature, top-k, top-p, min-p and typical-p over a batch, in the order of transformers.

Every function takes scores (rows, vocab) float32 and one parameter per row, and sets the scores of
removed tokens to -inf. A neutral value (0, 1, the vocabulary's size) removes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atoll.sampling.inputs import Floats, Ints, SamplingInput

# Most nuclei are small: the most likely tokens are enough for top-p, without sorting all of them.
_NUCLEUS = 256
# Divided by less, scores exceed float32's range; by then only the most likely token has any mass.
_COLDEST = 1e-30


@dataclass(frozen=True)
class WarperParameters:
    """Columns (rows, 1), None where no row uses the option. k_max: the largest top_k."""

    temperature: Tensor | None
    top_k: Tensor | None
    k_max: int
    top_p: Tensor | None
    min_p: Tensor | None
    typical_p: Tensor | None

    @classmethod
    def of(
        cls, given: SamplingInput, rows: Ints, vocab_size: int, device: torch.device
    ) -> WarperParameters:
        """The options of rows that draw; their top_k is at most the vocabulary's size."""

        def column(values: Floats | Ints | None, neutral: float) -> Tensor | None:
            if values is None or (values[rows] == neutral).all():
                return None
            return torch.tensor(values[rows], dtype=torch.float32, device=device).unsqueeze(1)

        ks, temperature = given.top_k, given.temperature
        if ks is not None:
            ks = np.where(ks == 0, vocab_size, np.minimum(ks, vocab_size))
        return cls(
            temperature=column(
                None if temperature is None else np.maximum(temperature, _COLDEST), 1.0
            ),
            top_k=column(ks, vocab_size),
            k_max=0 if ks is None else int(ks[rows].max(initial=0, where=ks[rows] < vocab_size)),
            top_p=column(given.top_p, 1.0),
            min_p=column(given.min_p, 0.0),
            typical_p=column(given.typical_p, 1.0),
        )


def warp(scores: Tensor, parameters: WarperParameters) -> Tensor:
    """scores: (rows, vocab) float32, may be mutated."""
    p = parameters
    if p.temperature is not None:
        scores = scores / p.temperature
    if p.top_k is not None:
        scores = _top_k(scores, p.top_k, p.k_max)
    if p.top_p is not None:
        scores = _top_p(scores, p.top_p)
    if p.min_p is not None:
        probabilities = scores.softmax(-1)
        least = p.min_p * probabilities.amax(-1, keepdim=True)
        scores = scores.masked_fill(probabilities < least, float("-inf"))
    if p.typical_p is not None:
        scores = _typical(scores, p.typical_p)
    return scores


def shortlist(scores: Tensor, parameters: WarperParameters) -> tuple[Tensor, Tensor] | None:
    """The tokens that top-k keeps in every row, so that later steps skip the whole vocabulary.

    Returns scores and token ids (rows, k_max), by id, or None if a row has no small enough k, or if
    the cut is between equal scores, which top-k keeps or removes together.
    """
    k = parameters.k_max
    if parameters.top_k is None or k > _NUCLEUS or bool((parameters.top_k > k).any()):
        return None
    best = scores.topk(k + 1, dim=-1)
    if bool((best.values[:, -2] == best.values[:, -1]).any()):
        return None
    ids, order = best.indices[:, :-1].sort(-1)
    return best.values[:, :-1].gather(-1, order), ids


def _top_k(scores: Tensor, k: Tensor, k_max: int) -> Tensor:
    """Keeps scores of at least the k-th largest; k of the vocabulary's size keeps all."""
    best = scores.topk(k_max, dim=-1).values
    least = best.gather(-1, k.long().clamp(max=k_max) - 1)
    least = least.masked_fill(k > k_max, float("-inf"))
    return scores.masked_fill(scores < least, float("-inf"))


def _top_p(scores: Tensor, p: Tensor) -> Tensor:
    """Keeps the most likely tokens while those before them hold less than ``p`` of the mass."""
    total = scores.logsumexp(-1, keepdim=True)
    vocab_size = scores.shape[-1]
    width = min(_NUCLEUS, vocab_size) if scores.is_cpu else vocab_size
    while True:
        best = scores.topk(width, dim=-1)
        mass = (best.values - total).exp().cumsum(-1)
        if width == vocab_size or bool((mass[:, -1:] >= p)[p < 1].all()):
            break
        width = vocab_size
    before = mass.roll(1, -1)
    before[:, 0] = 0.0
    kept = (before < p) | (p >= 1)
    kept[:, 0] = True  # also for a p that is 0 in float32
    nucleus = torch.full_like(scores, float("-inf"))
    nucleus.scatter_(-1, best.indices, best.values.masked_fill(~kept, float("-inf")))
    return torch.where(p >= 1, scores, nucleus)


def _typical(scores: Tensor, p: Tensor) -> Tensor:
    """Meister et al. 2022: keeps the tokens whose information is closest to the entropy."""
    normalized = scores.log_softmax(-1)
    probabilities = normalized.exp()
    entropy = -(normalized * probabilities).nansum(-1, keepdim=True)
    distance, order = (-normalized - entropy).abs().sort(-1)
    mass = probabilities.gather(-1, order).cumsum(-1)
    last = (mass < p).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    limit = distance.gather(-1, last)
    removed = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, distance > limit)
    return scores.masked_fill(removed & (p < 1), float("-inf"))

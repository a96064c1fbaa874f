"""Sampling in plain torch, by sorting."""

import torch
from torch import Tensor


def sample(
    logits: Tensor, temperature: Tensor, top_k: Tensor | None, top_p: Tensor | None,
    uniforms: Tensor,
) -> Tensor:  # fmt: skip
    scores = logits / temperature.unsqueeze(1)
    ordered = scores.sort(-1, descending=True).values
    last = scores.shape[1] - 1
    if top_k is not None:
        least = ordered.gather(1, (top_k.long().unsqueeze(1) - 1).clamp(max=last))
        scores = scores.masked_fill(scores < least, float("-inf"))
        ordered = ordered.masked_fill(ordered < least, float("-inf"))
    if top_p is not None:
        mass = ordered.softmax(-1)
        # Ranks whose predecessors have less than top_p of the mass; the last one is the threshold.
        kept = (mass.cumsum(-1) - mass < top_p.unsqueeze(1)).sum(-1, keepdim=True)
        least = ordered.gather(1, (kept - 1).clamp(0, last))
        limited = scores.masked_fill(scores < least, float("-inf"))
        scores = torch.where(top_p.unsqueeze(1) >= 1, scores, limited)
    mass = scores.softmax(-1).cumsum(-1, dtype=torch.float64)
    point = uniforms.unsqueeze(1) * mass[:, -1:]
    return torch.searchsorted(mass, point, right=True).squeeze(1).clamp(max=last)

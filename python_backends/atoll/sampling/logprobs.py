"""Log-probabilities of chosen tokens, under the model's own logits: before any processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from atoll.engine.request import Token

# Rows of a prompt that are scored at once: 64 x 50,000 float32 are 13 MB.
_ROWS = 64


def describe(logits: Tensor, ids: Sequence[int], tops: Sequence[int]) -> list[Token]:
    """Tokens with their log-probability, rank (1: most likely) and alternatives.

    logits: (rows, vocab) float32. ids: the chosen token of each row. tops: alternatives per row.
    """
    chosen = torch.tensor(ids, dtype=torch.int64, device=logits.device).unsqueeze(1)
    total = logits.logsumexp(-1, keepdim=True)
    score = logits.gather(-1, chosen)
    ranks = ((logits > score).sum(-1) + 1).tolist()
    values = (score - total).squeeze(1).tolist()
    alternatives: list[tuple[tuple[int, float], ...]] = [()] * len(ids)
    if width := max(tops, default=0):
        best = logits.topk(width, dim=-1)
        best_ids, best_values = best.indices.tolist(), (best.values - total).tolist()
        alternatives = [
            tuple(zip(i[:n], v[:n], strict=True))
            for i, v, n in zip(best_ids, best_values, tops, strict=True)
        ]
    return [Token(*each) for each in zip(ids, values, ranks, alternatives, strict=True)]


def prompt_logprobs(
    hidden: Tensor, logits_of: Callable[[Tensor], Tensor], next_ids: Sequence[int], top: int
) -> list[Token]:
    """The tokens that follow each row of a prompt, with their log-probabilities.

    hidden: (rows, hidden); next_ids: the token after each row.
    """
    tokens: list[Token] = []
    for start in range(0, len(next_ids), _ROWS):
        ids = next_ids[start : start + _ROWS]
        logits = logits_of(hidden[start : start + len(ids)])
        tokens += describe(logits, ids, [top] * len(ids))
    return tokens

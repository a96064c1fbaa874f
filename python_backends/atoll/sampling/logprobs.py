"""Log-probabilities of chosen tokens, under the model's own logits: before any processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from atoll.sampling.inputs import Bools, Ints, PromptTokens, TokenLogprobs

# Prompt tokens that are scored at once: 64 x 50,000 float32 are 13 MB.
_ROWS = 64


def describe(logits: Tensor, ids: Ints, num_top: Ints, width: int) -> TokenLogprobs:
    """Log-probability, rank and alternatives of the chosen tokens.

    logits: (rows, vocab) float32. ids, num_top: (rows,) the chosen tokens, and how many of the
    ``width`` alternatives count.
    """
    chosen = torch.tensor(ids, device=logits.device).unsqueeze(1)
    total = logits.logsumexp(-1, keepdim=True)
    score = logits.gather(-1, chosen)
    ranks = (logits > score).sum(-1) + 1
    top_ids, top_logprobs = np.empty((len(ids), 0), np.int64), np.empty((len(ids), 0), np.float32)
    if width:
        best = logits.topk(width, dim=-1)
        top_ids, top_logprobs = best.indices.cpu().numpy(), (best.values - total).cpu().numpy()
    logprobs = (score - total).squeeze(1).cpu().numpy()
    return TokenLogprobs(logprobs, ranks.cpu().numpy(), num_top, top_ids, top_logprobs)


def spread(found: TokenLogprobs, rows: Ints, num_rows: int) -> TokenLogprobs:
    """Results for some rows, spread over all; other rows get no log-probability."""
    values = []
    for field in fields(found):
        known = getattr(found, field.name)
        every = np.zeros((num_rows, *known.shape[1:]), known.dtype)
        every[rows] = known
        values.append(every)
    return TokenLogprobs(*values)


def picked(found: TokenLogprobs, rows: Bools) -> TokenLogprobs:
    """The selected rows."""
    return TokenLogprobs(*(getattr(found, field.name)[rows] for field in fields(found)))


def prompt_logprobs(
    hidden: Tensor, logits_of: Callable[[Tensor], Tensor], prompts: PromptTokens
) -> TokenLogprobs:
    """Log-probabilities of prompts' tokens, prompts concatenated.

    hidden: (tokens, hidden).
    """
    width, found = int(prompts.num_top.max()), []
    ends = prompts.num_tokens.cumsum()
    counts, firsts, tops = (
        column.tolist() for column in (prompts.num_tokens, prompts.first_tokens, prompts.num_top)
    )
    for end, count, first, num_top in zip(ends.tolist(), counts, firsts, tops, strict=True):
        ids = prompts.token_ids[end - count : end]
        for start in range(0, count, _ROWS):
            some = ids[start : start + _ROWS]
            begin = first + start
            logits = logits_of(hidden[begin : begin + len(some)])
            found.append(describe(logits, some, np.full(len(some), num_top), width))
    names = [field.name for field in fields(TokenLogprobs)]
    return TokenLogprobs(*(np.concatenate([getattr(f, n) for f in found]) for n in names))

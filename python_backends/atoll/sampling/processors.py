"""Changes to the logits before the warpers, as sparse updates of the whole batch.

Every processor is a gather, an operation and a scatter over flat indices ``row * vocab + token``:
its cost depends on the number of tokens in the step's input, not on the vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from atoll.sampling.grammar import mask
from atoll.sampling.inputs import RowAmounts, RowTokens, SamplingInput


def process(logits: Tensor, given: SamplingInput) -> None:
    """Mutates logits (rows, vocab), in the order of transformers."""
    flat = logits.view(-1)
    if given.bias is not None:
        flat.index_add_(0, _at(logits, given.bias), _amounts(logits, given.bias))
    if given.repetition is not None:
        # Keskar et al. 2019: positive scores are divided, negative ones multiplied.
        at, penalty = _at(logits, given.repetition), _amounts(logits, given.repetition)
        scores = flat[at]
        flat[at] = torch.where(scores < 0, scores * penalty, scores / penalty)
    if given.penalties is not None:
        flat[_at(logits, given.penalties)] -= _amounts(logits, given.penalties)
    if given.banned is not None:
        flat[_at(logits, given.banned)] = float("-inf")
    if given.masked_rows is not None and given.bitmask is not None:
        mask(logits, given.masked_rows, given.bitmask)
    if given.late_ends is not None:
        _delay_ends(logits, given.late_ends)
    if given.forced is not None:
        logits[torch.tensor(given.forced.rows, device=logits.device)] = float("-inf")
        flat[_at(logits, given.forced)] = 0.0
    if given.first_times is not None:
        _prefer_times(logits, given.first_times)


def _delay_ends(logits: Tensor, ends: RowTokens) -> None:
    """Removes the tokens, except from rows in which no other token would be left."""
    rows, owners = np.unique(ends.rows, return_inverse=True)
    flat, at = logits.view(-1), _at(logits, ends)
    scores = flat[at]
    flat[at] = float("-inf")
    is_stuck = logits[torch.from_numpy(rows).to(logits.device)].amax(-1) == float("-inf")
    flat[at] = scores.masked_fill(~is_stuck[torch.from_numpy(owners).to(logits.device)], -torch.inf)


def _prefer_times(logits: Tensor, first: RowTokens) -> None:
    """Leaves times alone in rows in which they are together likelier than any other token."""
    for row, begin in zip(first.rows.tolist(), first.tokens.tolist(), strict=True):
        others, times = logits[row, :begin], logits[row, begin:]
        is_time = times.logsumexp(-1) > others.amax(-1)
        others.masked_fill_(is_time, float("-inf"))


def _at(logits: Tensor, given: RowTokens | RowAmounts) -> Tensor:
    """Flat indices."""
    return torch.from_numpy(given.rows * logits.shape[1] + given.tokens).to(logits.device)


def _amounts(logits: Tensor, given: RowAmounts) -> Tensor:
    return torch.tensor(given.amounts, device=logits.device)

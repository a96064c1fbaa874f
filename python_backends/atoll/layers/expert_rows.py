"""The tokens of each expert, where experts run one after another.

The kernels of ``layers.moe`` take all experts at once, but only gated ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class ExpertRows(NamedTuple):
    """expert: its index. rows: (count,) int64, the tokens it gets. weights: (count, 1), shares."""

    expert: int
    rows: Tensor
    weights: Tensor


def rows_of_experts(chosen: Tensor, shares: Tensor, num_experts: int) -> Iterator[ExpertRows]:
    """What each expert that any token chose has to compute, in the order of the experts.

    Args:
        chosen, shares: (tokens, top_k), by ``kernels.route``.
    """
    # Sorting makes each expert's rows one slice, with a single copy to the host.
    order = chosen.flatten().argsort(stable=True)
    counts = torch.bincount(chosen.flatten(), minlength=num_experts).tolist()
    rows, weights = order // chosen.shape[1], shares.flatten()[order].unsqueeze(1)
    start = 0
    for expert, count in enumerate(counts):
        if count:
            mine = slice(start, start + count)
            yield ExpertRows(expert, rows[mine], weights[mine])
            start += count

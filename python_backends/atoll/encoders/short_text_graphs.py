"""Replays a graph for a single short text, whose kernels take less time than calling them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from atoll.layers import Batch
from atoll_kernels.cpu.graph_cache import CheckedGraphs, refusal

# For longer texts, the time of calls is negligible, and every length occupies memory.
MOST_TOKENS = 64

Trunk = Callable[[Batch], Tensor]
# Number of tokens, whether they have types, and how many are attended to if not all.
_Shape = tuple[int, bool, int | None]


class ShortTexts:
    """A trunk that replays batches of one short text, once it has run two of the same length."""

    def __init__(self, trunk: Trunk, device: torch.device, dtype: torch.dtype) -> None:
        self._trunk = trunk
        self._batches: dict[_Shape, Batch] = {}
        self.graphs: CheckedGraphs[_Shape] | None = None
        if device.type == "cpu" and refusal(dtype) is None:
            self.graphs = CheckedGraphs(
                lambda shape: (trunk(self._batches[shape]),), lambda a, b: bool((a != b).any())
            )

    def __call__(self, batch: Batch) -> Tensor:
        """(tokens, hidden); see the trunk."""
        count = len(batch.input_ids)
        if self.graphs is None or len(batch.cu_seqlens) != 2 or not 0 < count <= MOST_TOKENS:
            return self._trunk(batch)
        seen = None if batch.attended is None else batch.attended.counts[0]
        shape = (count, batch.token_type_ids is not None, seen)
        kept = self._batches.get(shape)
        if kept is None:
            kept = self._batches[shape] = _copied(batch)
        if kept.token_type_ids is not None and batch.token_type_ids is not None:
            kept.token_type_ids.copy_(batch.token_type_ids)
        if self.graphs.is_unchecked(shape):
            # Checked with other ids, since the same text may be repeated.
            ids = batch.input_ids
            kept.input_ids.copy_(torch.where(ids > 0, ids - 1, ids + 1))
            self.graphs.run(shape, kept.input_ids.numpy())
        kept.input_ids.copy_(batch.input_ids)
        (hidden,) = self.graphs.run(shape, kept.input_ids.numpy())
        # The next text of this length overwrites the graph's output.
        return hidden.clone()


def _copied(batch: Batch) -> Batch:
    types = batch.token_type_ids
    return replace(
        batch,
        input_ids=batch.input_ids.clone(),
        positions=batch.positions.clone(),
        cu_seqlens=batch.cu_seqlens.clone(),
        token_type_ids=None if types is None else types.clone(),
    )

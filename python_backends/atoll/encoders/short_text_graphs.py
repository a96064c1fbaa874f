"""A short text alone, by a graph: its kernels take less time than the Python that calls them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from atoll.layers import Batch
from atoll_kernels.cpu.graph_cache import CheckedGraphs, refusal

# Longer texts compute for so long that calls no longer show, and every length keeps its memory.
MOST_TOKENS = 64

Trunk = Callable[[Batch], Tensor]
# Tokens, and whether they have types.
_Shape = tuple[int, bool]


class ShortTexts:
    """A trunk whose batches of a single short text are replayed, once two of their length came."""

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
        shape = (count, batch.token_type_ids is not None)
        kept = self._batches.get(shape)
        if kept is None:
            kept = self._batches[shape] = _copied(batch)
        if kept.token_type_ids is not None and batch.token_type_ids is not None:
            kept.token_type_ids.copy_(batch.token_type_ids)
        if self.graphs.is_unchecked(shape):
            # The same text may come again and again, and says nothing about others.
            ids = batch.input_ids
            kept.input_ids.copy_(torch.where(ids > 0, ids - 1, ids + 1))
            self.graphs.run(shape, kept.input_ids.numpy())
        kept.input_ids.copy_(batch.input_ids)
        (hidden,) = self.graphs.run(shape, kept.input_ids.numpy())
        # The next text of this length overwrites it.
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

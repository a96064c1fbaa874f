"""Which waiting texts go into the next forward, and the batch they make.

Texts are concatenated: a pack has as many rows as it has tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from atoll.layers import PackedBatch

# A CPU's caches hold packs of this size well, and larger ones gain nothing there; a GPU is done so
# soon that launches show.
PREFERRED_TOKENS = 4096


@dataclass
class Item:
    """One tokenized text on its way.

    done: called once, on the engine's thread, with the row of results or the error.
    options: what the pooler must know of the request; not read here.
    is_counted: whether it belongs in metrics.
    queued, started: when the engine took it, and when the pack with it began (``time.monotonic``).
    is_dropped: whether nobody waits for the result any more; asked just before the item is run.
    """

    ids: Sequence[int]
    done: Callable[[Any], None]
    type_ids: Sequence[int] | None = None
    options: Any = None
    queued: float = field(default=0.0)
    started: float = field(default=0.0)
    is_dropped: Callable[[], bool] | None = None
    is_counted: bool = True


def take(waiting: deque[Item], max_tokens: int, max_items: int | None) -> list[Item]:
    """Removes the next pack from the queue, first come first served; at least one item.

    Stops at ``max_tokens`` and at ``max_items``.
    """
    pack: list[Item] = []
    total = 0
    while waiting and (max_items is None or len(pack) < max_items):
        length = len(waiting[0].ids)
        if pack and total + length > max_tokens:
            break
        pack.append(waiting.popleft())
        total += length
    return pack


def batch_of(pack: Sequence[Item], device: torch.device) -> PackedBatch:
    """The pack as tensors on ``device``."""
    lengths = [len(item.ids) for item in pack]
    ids = [token for item in pack for token in item.ids]
    positions = [position for length in lengths for position in range(length)]
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    types = None
    if any(item.type_ids is not None for item in pack):
        types = [t for item in pack for t in (item.type_ids or [0] * len(item.ids))]
    return PackedBatch(
        input_ids=torch.tensor(ids, dtype=torch.int64, device=device),
        positions=torch.tensor(positions, dtype=torch.int64, device=device),
        cu_seqlens=torch.tensor(starts, dtype=torch.int32, device=device),
        token_type_ids=None
        if types is None
        else torch.tensor(types, dtype=torch.int64, device=device),
    )

"""Orders the waiting texts, chooses those for the next forward pass, and builds the batch.

Texts are concatenated without padding: a batch has as many rows as tokens. What several texts of a
request begin with, a reranker's query, is in it once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from atoll.layers.batch import Attended, Batch, SharedKeys, to_tensor
from atoll.packing import pack

# On a CPU, batches of this size fit into the caches, and larger ones are not faster. On a GPU, they
# are: launches take a noticeable share of the time.
PREFERRED_TOKENS = 4096
# Keys per token of a batch: texts that share their beginning have more of them than rows, which
# take memory while a layer runs.
_MOST_KEYS = 4

Ids = npt.NDArray[np.int32]


@dataclass
class Item:
    """One tokenized text in the queue.

    ids, type_ids: (tokens,).
    done: called once, on the engine's thread, with the result or the error.
    options: the request's options for the encoder; not used here.
    route: which of a model's encoders it is for, if there are several.
    places: where each token is in its text, if the task asks for it; not used here.
    is_counted: whether it counts in metrics.
    queued, started: when the engine got it, and when its batch began (``time.monotonic``).
    is_dropped: whether the client has disconnected; called just before the item is run.
    num_attended: how many of its first tokens are attended to; None: all.
    prefix: the beginning of ``ids``, shorter than them, which is computed once for all neighbours
        in the queue that have the same array here.
    pixels: (patches, values of a patch), of an image, whose ids mean nothing.
    priority: lower goes first. due: by which texts wait: ``queued``, and a time for each priority.
    client: who shares the engine with other clients; None: nobody, as of a canary.
    """

    ids: Ids
    done: Callable[[Any], None]
    type_ids: Ids | None = None
    options: Any = None
    places: Any = None
    route: str | None = None
    queued: float = field(default=0.0)
    started: float = field(default=0.0)
    is_dropped: Callable[[], bool] | None = None
    is_counted: bool = True
    num_attended: int | None = None
    prefix: Ids | None = None
    pixels: npt.NDArray[np.uint8] | None = None
    priority: int = 0
    due: float = field(default=0.0)
    client: str | None = ""


def place(waiting: deque[Item], items: Sequence[Item]) -> None:
    """Queues a request's items, which are due together, behind all that are due no later."""
    if not items:
        return
    at = len(waiting)
    if waiting and waiting[-1].due > items[0].due:
        at = bisect_right(waiting, items[0].due, key=lambda item: item.due)
    num_behind = len(waiting) - at
    waiting.rotate(num_behind)
    waiting.extend(items)
    waiting.rotate(-num_behind)


def take(waiting: deque[Item], max_tokens: int, max_items: int | None) -> list[Item]:
    """Removes the next batch from the queue, in its order; at least one item.

    Stops at ``max_tokens`` and at ``max_items``.
    """
    taken: list[Item] = []
    total = num_keys = 0
    while waiting and (max_items is None or len(taken) < max_items):
        item = waiting[0]
        length = len(item.ids)
        num_own = length - _num_shared(taken[-1] if taken else None, item)
        is_full = total + num_own > max_tokens or num_keys + length > _MOST_KEYS * max_tokens
        if taken and is_full:
            break
        taken.append(waiting.popleft())
        total, num_keys = total + num_own, num_keys + length
    return taken


def batch_of(items: Sequence[Item], device: torch.device) -> Batch:
    """A batch as tensors on ``device``; arrays are built on the host and copied once."""
    if any(_num_shared(*pair) for pair in zip(items, items[1:], strict=False)):
        return _shared_batch(items, device)
    counts = np.fromiter((len(item.ids) for item in items), np.int64, len(items))
    starts, positions = pack(counts)
    types = None
    if any(item.type_ids is not None for item in items):
        rows = [np.zeros_like(i.ids) if i.type_ids is None else i.type_ids for i in items]
        types = to_tensor(np.concatenate(rows, dtype=np.int64), device)
    return Batch(
        input_ids=to_tensor(np.concatenate([i.ids for i in items], dtype=np.int64), device),
        positions=to_tensor(positions, device),
        cu_seqlens=to_tensor(starts.astype(np.int32), device),
        max_position=int(counts.max()) - 1,
        token_type_ids=types,
        attended=_attended(items, starts, device),
    )


def _attended(
    items: Sequence[Item], starts: npt.NDArray[np.generic], device: torch.device
) -> Attended | None:
    if all(item.num_attended is None for item in items):
        return None
    lengths = [len(item.ids) for item in items]
    counts = [
        n if i.num_attended is None else i.num_attended for i, n in zip(items, lengths, strict=True)
    ]
    firsts = starts[:-1].astype(np.int64)
    places = [np.arange(at, at + n) for at, n in zip(firsts, counts, strict=True)]
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return Attended(
        to_tensor(np.concatenate(places), device),
        to_tensor(ends, device),
        tuple(counts),
        tuple(lengths),
    )


def _num_shared(before: Item | None, item: Item) -> int:
    """Tokens at the beginning of ``item`` that a batch has already, with the item ``before``."""
    is_same = before is not None and item.prefix is not None and item.prefix is before.prefix
    return len(item.prefix) if is_same and item.prefix is not None else 0


def _shared_batch(items: Sequence[Item], device: torch.device) -> Batch:
    """Each prefix is a sequence of its own, which the texts behind it continue."""
    parts: list[Ids] = []
    # Of each sequence: how many tokens come before its own, and where in the batch they are.
    num_before: list[int] = []
    keys: list[npt.NDArray[np.int64]] = []
    last_rows: list[int] = []
    end, before, prefix_rows = 0, None, np.zeros(0, np.int64)
    for item in items:
        if item.prefix is None:
            prefix_rows = np.zeros(0, np.int64)
        elif not _num_shared(before, item):
            prefix_rows = np.arange(end, end + len(item.prefix))
            parts.append(item.prefix)
            num_before.append(0)
            keys.append(prefix_rows)
            end += len(item.prefix)
        own = item.ids[len(prefix_rows) :]
        parts.append(own)
        num_before.append(len(prefix_rows))
        keys.append(np.concatenate([prefix_rows, np.arange(end, end + len(own))]))
        end += len(own)
        last_rows.append(end - 1)
        before = item
    counts = np.array([len(part) for part in parts], np.int64)
    starts, positions = pack(counts, np.array(num_before, np.int64))
    key_starts, _ = pack(np.array([len(rows) for rows in keys], np.int64))
    return Batch(
        input_ids=to_tensor(np.concatenate(parts, dtype=np.int64), device),
        positions=to_tensor(positions, device),
        cu_seqlens=to_tensor(starts.astype(np.int32), device),
        max_position=int(positions.max()),
        shared=SharedKeys(
            to_tensor(np.concatenate(keys), device),
            to_tensor(key_starts.astype(np.int32), device),
            to_tensor(np.array(last_rows, np.int64), device),
        ),
    )

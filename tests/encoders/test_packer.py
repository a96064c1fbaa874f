"""Which waiting texts share a forward, and the batch that they make."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from atoll.encoders.packer import Item, batch_of, place, take


def item(length: int, type_ids: Sequence[int] | None = None) -> Item:
    types = None if type_ids is None else np.array(type_ids, np.int32)
    return Item(np.arange(1, length + 1, dtype=np.int32), lambda result: None, types)


@pytest.mark.parametrize(("max_items", "packs"), [
    # A text that is longer than all that fits goes alone; nobody is overtaken.
    (None, [[5, 4], [3], [12], [1, 1, 8], [2]]),
    (2, [[5, 4], [3], [12], [1, 1], [8, 2]]),
    (1, [[5], [4], [3], [12], [1], [1], [8], [2]]),
])  # fmt: skip
def test_packs_are_filled_in_order(max_items: int | None, packs: list[list[int]]) -> None:
    waiting = deque(item(length) for length in (5, 4, 3, 12, 1, 1, 8, 2))
    found = []
    while waiting:
        found.append([len(one.ids) for one in take(waiting, 10, max_items)])
    assert found == packs


def test_texts_wait_by_when_they_are_due() -> None:
    """Those of a request side by side, and behind those of equal ones that came before."""
    waiting: deque[Item] = deque()
    for due, lengths in ((5.0, [1, 2]), (7.0, [3]), (4.0, [4, 5]), (5.0, [6]), (9.0, [])):
        items = [item(length) for length in lengths]
        for one in items:
            one.due = due
        place(waiting, items)
    assert [len(one.ids) for one in waiting] == [4, 5, 1, 2, 6, 3]


def test_texts_stand_one_behind_the_other() -> None:
    batch = batch_of([item(3), item(1), item(2)], torch.device("cpu"))
    assert batch.input_ids.tolist() == [1, 2, 3, 1, 1, 2]
    assert batch.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.cu_seqlens.tolist() == [0, 3, 4, 6] and batch.cu_seqlens.dtype == torch.int32
    assert batch.token_type_ids is None


def test_a_text_beside_a_pair_has_the_first_type() -> None:
    batch = batch_of([item(2), item(3, [0, 1, 1])], torch.device("cpu"))
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [0, 0, 0, 1, 1]

"""Texts of several clients in the queue of an encoder, whose passes take 8 ms and one a token."""

from __future__ import annotations

import numpy as np
import pytest
from fixed_cost import FixedCost

from atoll.encoders.packer import Item
from atoll.encoders.waiting import WaitingTexts
from atoll.fairness import budget


def _waiting(max_tokens: int = 1000, max_items: int | None = None) -> WaitingTexts:
    found = WaitingTexts(max_tokens, max_items)
    found._budget.cost = FixedCost()
    return found


def _texts(
    client: str | None, count: int, length: int, due: float = 0.0, **more: int
) -> list[Item]:
    ids = np.zeros(length, np.int32)
    return [Item(ids, print, client=client, due=due, **more) for _ in range(count)]


def _taken(waiting: WaitingTexts) -> list[tuple[str | None, int]]:
    """Clients of the next batch and how many tokens each has in it."""
    taken = waiting.take()
    clients = dict.fromkeys(item.client for item in taken)
    return [(c, sum(len(item.ids) for item in taken if item.client == c)) for c in clients]


def test_one_client_has_whole_batches() -> None:
    waiting = _waiting(max_tokens=40)
    waiting.add(_texts("many", 10, 10))
    assert [_taken(waiting) for _ in range(3)] == [[("many", 40)], [("many", 40)], [("many", 20)]]
    assert not waiting


def test_a_short_text_is_in_the_next_batch_which_is_a_short_one() -> None:
    """It was behind a thousand texts of another client, and then in a batch of the largest size."""
    waiting = _waiting()
    waiting.add(_texts("many", 1000, 10))
    waiting.add(_texts("one", 1, 6, due=1.0))
    # 1.75 times 14 ms are 8 and 16 tokens.
    assert _taken(waiting) == [("one", 6), ("many", 10)]
    # He will probably come back: a text of 10 and no more.
    assert _taken(waiting) == [("many", 10)]
    assert waiting


def test_batches_are_whole_again_when_the_other_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = _waiting()
    waiting.add(_texts("many", 1000, 10))
    waiting.add(_texts("one", 1, 6))
    assert _taken(waiting)
    monkeypatch.setattr(budget, "_EXPECTED_S", 0.0)
    assert _taken(waiting) == [("many", 1000)]


def test_a_long_text_is_made_up_for() -> None:
    """A text cannot be divided: one of 100 waits until it is its client's share."""
    waiting = _waiting()
    waiting.add(_texts("long", 20, 100))
    batches = []
    for _ in range(15):
        waiting.add(_texts("one", 1, 10))
        batches.append(_taken(waiting))
    assert all(batch[0] == ("one", 10) for batch in batches)
    # 1.75 times 18 ms are 8 and 23 tokens, so 13 a batch.
    assert [len(batch) for batch in batches] == [1] * 7 + [2] + [1] * 7
    assert _taken(waiting) == [("long", 100)]  # nobody waits for it


def test_what_is_of_a_higher_class_comes_first() -> None:
    waiting = _waiting(max_items=4)
    waiting.add(_texts("one", 2, 10, due=60.0, priority=2))
    waiting.add(_texts("many", 4, 10))
    assert _taken(waiting)[0][0] == "many"


def test_a_canary_is_in_the_next_batch_and_shortens_none() -> None:
    waiting = _waiting()
    waiting.add(_texts("many", 20, 10))
    waiting.add(_texts(None, 1, 3, due=-30000.0))
    assert sorted(_taken(waiting), key=str) == [("many", 200), (None, 3)]


def test_what_waits_is_all_returned() -> None:
    waiting = _waiting()
    waiting.add(_texts("many", 3, 10))
    waiting.add(_texts("one", 2, 10))
    waiting.add([])
    assert len(waiting.clear()) == 5 and not waiting and not waiting.clear()

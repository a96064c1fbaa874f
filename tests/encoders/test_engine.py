"""The encoder engine's thread outlives whatever fails around a pack."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from atoll.encoders.engine import EncoderEngine
from atoll.encoders.packer import Item
from atoll.errors import Cancelled, GenerationError
from atoll.layers import Batch

TIMEOUT_S = 60


def _lengths(batch: Batch, items: Sequence[Item]) -> list[object]:
    if any(item.ids.tolist() == [666] for item in items):
        raise ValueError("no forward for this text")
    return [len(item.ids) for item in items]


def _fail(*_: object) -> Any:
    raise RuntimeError("the server does not listen")


@pytest.fixture
def engine() -> Iterator[EncoderEngine]:
    found = EncoderEngine(_lengths, torch.device("cpu"), max_batch_tokens=64, on_pack=_fail)
    found.start()
    yield found
    found.stop()


def _item(answers: queue.SimpleQueue[object], ids: list[int], **options: Any) -> Item:
    return Item(np.array(ids, np.int32), options.pop("done", answers.put), None, None, **options)


def test_answers_that_cannot_be_sent_and_counts_that_fail(engine: EncoderEngine) -> None:
    answers: queue.SimpleQueue[object] = queue.SimpleQueue()
    engine.submit([_item(answers, [1], done=_fail), _item(answers, [1, 2])])
    assert answers.get(timeout=TIMEOUT_S) == 2
    engine.submit([_item(answers, [1, 2, 3], is_dropped=_fail)])
    assert answers.get(timeout=TIMEOUT_S) == 3
    engine.submit([_item(answers, [1], is_dropped=lambda: True, done=_fail)])
    engine.submit([_item(answers, [1], is_dropped=lambda: True)])
    assert isinstance(answers.get(timeout=TIMEOUT_S), Cancelled)


def test_a_forward_that_fails(engine: EncoderEngine) -> None:
    answers: queue.SimpleQueue[object] = queue.SimpleQueue()
    engine.submit([_item(answers, [666])])
    assert isinstance(answers.get(timeout=TIMEOUT_S), GenerationError)
    engine.submit([_item(answers, [1])])
    assert answers.get(timeout=TIMEOUT_S) == 1


def test_what_waits_is_run_by_priority() -> None:
    """While the first text is computed, the others arrive."""
    has_begun, may_end, order = threading.Event(), threading.Event(), list[int]()

    def forward(batch: Batch, items: Sequence[Item]) -> list[object]:
        order.extend(len(item.ids) for item in items)
        has_begun.set()
        assert may_end.wait(TIMEOUT_S)
        return [None] * len(items)

    engine = EncoderEngine(
        forward, torch.device("cpu"), max_batch_tokens=64, max_batch_requests=1,
        priority_aging_s=30.0,
    )  # fmt: skip
    answers: queue.SimpleQueue[object] = queue.SimpleQueue()
    engine.start()
    engine.submit([_item(answers, [1])])
    assert has_begun.wait(TIMEOUT_S)
    for length, priority in ((2, 0), (3, 1), (4, -1), (5, 0)):
        engine.submit([_item(answers, [1] * length, priority=priority)])
    may_end.set()
    for _ in range(5):
        answers.get(timeout=TIMEOUT_S)
    engine.stop()
    assert order == [1, 4, 2, 5, 3]

"""Places and preparation of a model's requests, which clients share."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from atoll.errors import Overloaded, ValidationError
from atoll.serving.admission import Admission
from atoll.serving.preparation import PreparationPool


def test_a_client_who_takes_all_places_keeps_nobody_out() -> None:
    admission = Admission(8)
    admission.enter(8, "many")
    with pytest.raises(Overloaded, match="8 requests are held; max_concurrent_requests is 8"):
        admission.enter(1, "many")
    admission.enter(2, "one")
    with pytest.raises(Overloaded, match="10 requests are held"):  # a quarter beyond the limit
        admission.enter(1, "other")
    admission.leave(1, "one")
    with pytest.raises(ValidationError, match="9 answers"):
        admission.enter(9, "new")
    admission.enter(1, "other")
    for count, client in ((8, "many"), (1, "one"), (1, "other")):
        admission.leave(count, client)
    assert admission.num_held == 0 and not admission._by_client


def test_without_other_clients_the_limit_is_the_limit() -> None:
    admission = Admission(2)
    admission.enter()
    admission.enter()
    with pytest.raises(Overloaded):
        admission.enter()


def test_clients_take_turns_at_preparation() -> None:
    """A text waited until hundreds of another client had been tokenized."""
    pool, order, may_begin = PreparationPool(1), list[str](), threading.Event()
    done = threading.Event()

    def submit(client: str, name: str, work: Any = None) -> None:
        request: Any = SimpleNamespace(is_done=False, is_preparing=False, fail=print)
        pool.submit(request, work or (lambda: order.append(name)), client=client)

    submit("many", "first", lambda: may_begin.wait(60))
    for number in range(3):
        submit("many", f"many {number}")
    for number in range(2):
        submit("one", f"one {number}")
    submit("other", "other 0", lambda: (order.append("other 0"), None))
    submit("many", "last", done.set)
    may_begin.set()
    assert done.wait(60)
    pool.close()
    assert order == ["one 0", "other 0", "many 0", "one 1", "many 1", "many 2"]

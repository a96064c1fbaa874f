"""Shares and the learned time of a pass, beside what they should be."""

from __future__ import annotations

import random

import pytest
from fixed_cost import FixedCost

from atoll.fairness import budget
from atoll.fairness.budget import FairBudget
from atoll.fairness.shares import is_below_share, max_min_shares
from atoll.fairness.step_cost import StepCost


@pytest.mark.parametrize(
    ("demands", "total", "expected"),
    [
        ({"a": 1, "b": 100}, 10, {"a": 1, "b": 9}),
        ({"a": 100, "b": 100}, 10, {"a": 5, "b": 5}),
        ({"a": 2, "b": 9, "c": 50}, 30, {"a": 2, "b": 9, "c": 19}),
        ({"a": 7}, 30, {"a": 7}),
        ({"a": 5, "b": 5, "c": 5}, 2, {"a": 1, "b": 1, "c": 1}),
    ],
)
def test_shares(demands: dict[str, int], total: int, expected: dict[str, int]) -> None:
    assert max_min_shares(demands, total) == expected


def test_shares_are_max_min_fair() -> None:
    """Nobody gets more than he wants, all is given, and who gets less than he wants has no less
    than anybody else, but for what does not divide."""
    draw = random.Random(0)
    for _ in range(500):
        demands = {str(i): draw.randint(1, 40) for i in range(draw.randint(1, 8))}
        total = draw.randint(len(demands), 120)
        shares = max_min_shares(demands, total)
        assert all(1 <= shares[name] <= demands[name] for name in demands)
        assert sum(shares.values()) == min(total, sum(demands.values()))
        poor = [shares[name] for name in demands if shares[name] < demands[name]]
        assert not poor or min(poor) >= max(shares.values()) - 1


def test_a_share_of_places() -> None:
    assert not is_below_share(1, 1, 8)
    assert is_below_share(4, 2, 8) and not is_below_share(5, 2, 8)


def test_the_time_of_a_pass_is_learned() -> None:
    """Of passes that vary by a tenth, the first of which compiles something, some disturbed."""
    draw, cost = random.Random(0), StepCost()
    assert cost.seconds(5) == 0.0
    cost.add(4, 3.0)
    for step in range(400):
        size = draw.choice([1, 2, 8, 8, 30, 64])
        late = 5.0 if step % 50 == 7 else 1.0
        cost.add(size, late * draw.uniform(0.95, 1.05) * (0.010 + 0.0005 * size))
    for size in (1, 16, 64):
        assert cost.seconds(size) == pytest.approx(0.010 + 0.0005 * size, rel=0.3)
        assert cost.tokens(cost.seconds(size) + 1e-9) == size
    # Between sizes, and beyond them.
    assert cost.seconds(100) == pytest.approx(0.060, rel=0.3)


def test_a_slower_model_is_noticed() -> None:
    cost = StepCost()
    for _ in range(50):
        cost.add(8, 0.001)
    for _ in range(400):
        cost.add(8, 0.1)
    assert cost.seconds(8) == pytest.approx(0.1, rel=0.1)


def test_a_pass_is_as_long_as_the_least_clients_by_their_number() -> None:
    found = FairBudget()
    found.cost = FixedCost()
    assert found.allowances({"many": 500}) is None
    # 1.75 times 9 ms are 8 and 7 tokens.
    assert found.allowances({"many": 500, "one": 1}) == {"one": 1, "many": 6}
    # 2.5 times 9 ms are 8 and 14 tokens.
    shares = {"one": 1, "many": 7, "more": 6}
    assert found.allowances({"many": 500, "one": 1, "more": 200}) == shares


def test_who_was_there_a_moment_ago_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    found, now = FairBudget(), 100.0
    found.cost = FixedCost()
    monkeypatch.setattr(budget.time, "monotonic", lambda: now)
    found.allowances({"one": 1})
    now += 0.5
    assert found.allowances({"many": 500}) == {"many": 7}
    now += 1.0
    # He may come back: 42 tokens take 50 ms.
    assert found.allowances({"many": 500}) == {"many": 42}
    now += 9.0
    assert found.allowances({"many": 500}) is None


def test_what_was_taken_too_much_is_given_back() -> None:
    found = FairBudget()
    found.cost = FixedCost()
    demands = {"many": 500, "one": 1}
    found.allowances(demands)
    found.overdrawn("many", 20)
    given = [found.allowances(demands) for _ in range(4)]
    assert [each and each["many"] for each in given] == [-14, -8, -2, 4]


def test_somebody_always_goes_on() -> None:
    found = FairBudget()
    found.cost = FixedCost()
    found.allowances({"one": 1, "many": 500})
    found.overdrawn("many", 1000)
    assert found.allowances({"many": 500}) == {"many": 7}
    assert found.allowances({}) == {}

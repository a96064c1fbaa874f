"""Several clients at one engine, whose steps take 8 ms and one more for each token."""

from __future__ import annotations

from typing import Any

import pytest
from driving import Collector, EchoModel, make_core, request, run
from fixed_cost import FixedCost

from atoll.engine.core import EngineCore
from atoll.fairness import budget


def _core(model: Any = None, *, num_blocks: int = 1024, **limits: Any) -> EngineCore:
    core = make_core(model or EchoModel(), num_blocks=num_blocks, **limits)
    core.scheduler.fair._budget.cost = FixedCost()
    return core


def _add(
    core: EngineCore, client: str | None, count: int = 1, *, num_prompt: int = 1,
    num_answer: int = 200, **options: Any,
) -> list[Collector]:  # fmt: skip
    sinks = []
    for number in range(count):
        made, sink = request([number % 90] * num_prompt, num_answer, client=client, **options)
        core.add(made)
        sinks.append(sink)
    return sinks


def _counts(sinks: list[Collector]) -> list[int]:
    return [len(sink.tokens) for sink in sinks]


def _steps(core: EngineCore, count: int) -> None:
    for _ in range(count):
        core.step()
        core.scheduler.check_integrity()


def test_one_stream_beside_many() -> None:
    """It got a token per step, but steps of 33 tokens took 41 ms instead of 9."""
    core = _core()
    many, one = _add(core, "many", 32), _add(core, "one")
    _steps(core, 4)
    before, at = sum(_counts(many)), _counts(one)[0]
    _steps(core, 64)
    assert _counts(one)[0] - at == 64
    # 1.75 times 9 ms are 8 and 7 tokens; the streams take turns.
    assert sum(_counts(many)) - before == 64 * 6
    assert max(_counts(many)) - min(_counts(many)) <= 1


def test_nobody_waits_for_a_client_who_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_EXPECTED_S", 0.0)
    core = _core()
    many, _ = _add(core, "many", 32), _add(core, "one", num_answer=8)
    _steps(core, 12)
    before = sum(_counts(many))
    _steps(core, 4)
    assert sum(_counts(many)) - before == 4 * 32


def test_without_the_setting_all_go_at_once() -> None:
    core = _core(fair_scheduling=False)
    many, one = _add(core, "many", 32), _add(core, "one")
    _steps(core, 10)
    assert _counts([*many, *one]) == [10] * 33


def test_a_long_prompt_of_another_client_goes_in_small_pieces() -> None:
    core = _core()
    one, long = _add(core, "one"), _add(core, "many", num_prompt=180, num_answer=3)
    _steps(core, 29)
    assert _counts(one) == [29] and not long[0].tokens
    _steps(core, 2)
    assert long[0].tokens


def test_a_client_with_few_requests_finds_a_place() -> None:
    """All places were another client's, whose requests came first."""
    core = _core(max_batch_size=4)
    many = _add(core, "many", 10, num_answer=40)
    _steps(core, 2)
    one = _add(core, "one", 2, num_answer=40)
    _steps(core, 1)
    assert core.stats().num_running == 6 and _counts(one) == [1, 1]
    forwarded = core.stats().num_forward_tokens
    _steps(core, 10)
    # Still no more rows in a step than there are places.
    assert core.stats().num_forward_tokens - forwarded == 40 and _counts(one) == [11, 11]
    more = _add(core, "one", num_answer=1)
    _steps(core, 1)
    assert _counts(more) == [0]  # half of the places, and no more
    run(core)
    assert _counts([*many, *one, *more]) == [40] * 12 + [1]


def test_a_client_with_few_requests_finds_blocks() -> None:
    """What holds more than a share of the cache is preempted, and answered later as ever."""
    model = EchoModel()
    core = _core(model, num_blocks=24)
    long = [request([i] * 20, 12, client="many") for i in range(4)]
    for made, _ in long:
        core.add(made)
    _steps(core, 6)
    short, sink = request([7] * 9, 4, client="one")
    core.add(short)
    _steps(core, 2)
    assert sink.tokens and core.stats().num_preemptions > 0
    run(core)
    assert sink.ids == model.echo([7] * 9, 4)
    assert [one.ids for _, one in long] == [model.echo([i] * 20, 12) for i in range(4)]


def test_classes_of_priority_come_before_shares() -> None:
    """What waits for a higher class is not overtaken by another client's lower one."""
    core = _core(max_batch_size=2, priority_aging_s=30.0)
    many = _add(core, "many", 6, num_answer=4)
    _steps(core, 1)
    low = _add(core, "one", num_answer=4, priority=5)
    while not low[0].tokens:
        _steps(core, 1)
    assert all(sink.tokens for sink in many)


@pytest.mark.parametrize("others", [None, "many"])
def test_canaries_are_not_a_client(others: str | None) -> None:
    core = _core()
    sinks = _add(core, "many", 20) + _add(core, others)
    _steps(core, 5)
    assert _counts(sinks) == [5] * 21


def test_searches_go_on_with_all_their_beams() -> None:
    """Beside other clients, a search finds what it finds alone."""
    alone = _core()
    made, expected = request([5, 6, 7], 12, num_beams=4)
    alone.add(made)
    run(alone)
    core = _core()
    made, sink = request([5, 6, 7], 12, num_beams=4, client="search")
    core.add(made)
    others = _add(core, "many", 20, num_answer=30) + _add(core, "one", num_answer=30)
    run(core)
    assert sink.ids == expected.ids and _counts(others) == [30] * 21

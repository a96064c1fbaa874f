"""The scheduler under random schedules, with a model that says what the cache really holds."""

import random
from typing import Any

import pytest
from driving import Collector, EchoModel, make_core, request, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stateful import MixedModel, StateModel

from atoll.engine.core import EngineCore
from atoll.engine.request import Request
from atoll.engine.speculation import NgramDraft
from atoll.errors import Cancelled
from atoll.runner.states import NO_STATES, StateSize

SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)

# A small alphabet, so that prefixes collide.
PROMPT = st.lists(st.integers(0, 2), min_size=1, max_size=20)


@st.composite
def schedules(draw: st.DrawFn) -> dict[str, object]:
    """An engine's limits and what happens to it."""
    return {
        "num_blocks": draw(st.integers(9, 40)),
        "window": draw(st.sampled_from([None, None, 6])),
        "prefix_caching": draw(st.booleans()),
        "draft": draw(st.none() | st.integers(1, 3)),
        # Slots for sequences, and for snapshots; None: no layer is recurrent.
        "states": draw(st.none() | st.tuples(st.integers(1, 8), st.integers(0, 3))),
        "has_keys": draw(st.booleans()),
        "limits": {
            "max_batch_size": draw(st.integers(1, 6)),
            "max_batch_prefill_tokens": draw(st.integers(1, 24)),
            "max_mixed_prefill_tokens": draw(st.integers(1, 24)),
            "waiting_served_ratio": draw(st.sampled_from([0.0, 0.5, 2.0])),
            "max_waiting_tokens": draw(st.integers(0, 5)),
        },
        # (prompt, answer length, steps before the next, cancelled after so many steps or never,
        # conversation, priority, client)
        "requests": draw(
            st.lists(
                st.tuples(
                    PROMPT, st.integers(1, 14), st.integers(0, 3),
                    st.none() | st.integers(0, 6), st.none() | st.sampled_from("ab"),
                    st.sampled_from([0, 0, -1, 2]), st.sampled_from(["", "", "b", "c", None]),
                ),
                min_size=1, max_size=10,
            )
        ),
    }  # fmt: skip


@SETTINGS
@given(schedules())
def test_random_schedules(schedule: dict[str, Any]) -> None:
    """No block or slot leaks or has two writers, every request ends once, every answer is right."""
    size, states = schedule["draft"], schedule["states"]
    model = EchoModel(window=schedule["window"])
    if states is not None:
        kind = MixedModel if schedule["has_keys"] else StateModel
        model, states = kind(window=schedule["window"]), StateSize(sum(states), states[1])
    core = make_core(
        model, num_blocks=schedule["num_blocks"], prefix_caching=schedule["prefix_caching"],
        draft=None if size is None else NgramDraft(size), states=states or NO_STATES,
        **schedule["limits"],
    )  # fmt: skip
    cancels: dict[int, list[str]] = {}
    made: list[tuple[Request, Collector]] = []
    step = 0

    def advance() -> None:
        nonlocal step
        for name in cancels.pop(step, []):
            core.cancel(name, Cancelled("test"))
        core.step()
        core.scheduler.check_integrity()
        step += 1

    for prompt, length, pause, cancel_after, session, priority, client in schedule["requests"]:
        one = request(prompt, length, session_id=session, priority=priority, client=client)
        core.add(one[0])
        made.append(one)
        if cancel_after is not None:
            cancels.setdefault(step + cancel_after, []).append(one[0].request_id)
        for _ in range(pause):
            advance()
    for _ in range(3000):
        if not core.is_busy:
            break
        advance()
    for one, sink in made:
        assert sink.ended.is_set()
        expected = model.echo(one.prompt_ids, one.options.max_new_tokens)
        if sink.error is None:
            assert sink.ids == expected
        else:
            assert isinstance(sink.error, Cancelled)
            assert sink.ids == expected[: len(sink.ids)]
    core.scheduler.session_cache.expire(-1)
    assert core.stats().num_used_blocks == core.stats().num_used_state_slots == 0


@pytest.mark.parametrize("seed", range(3))
def test_many_requests_in_little_room(seed: int) -> None:
    """Long random load: preemptions, evictions and prefix hits all happen, and nothing is lost."""
    chance, model = random.Random(seed), EchoModel()
    core: EngineCore = make_core(model, num_blocks=16, max_batch_prefill_tokens=12)
    made = []
    for _ in range(80):
        prompt = [chance.randrange(2) for _ in range(chance.randrange(1, 24))]
        one = request(prompt, chance.randrange(1, 16))
        core.add(one[0])
        made.append(one)
    run(core)
    for one, sink in made:
        assert sink.ids == model.echo(one.prompt_ids, one.options.max_new_tokens)
    stats = core.stats()
    assert stats.num_preemptions and stats.num_evicted_blocks and stats.num_hit_tokens
    assert stats.num_used_blocks == 0

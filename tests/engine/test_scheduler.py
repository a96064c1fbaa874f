"""What the scheduler does, with a model that says what the cache really holds."""

from types import SimpleNamespace

import pytest
from driving import EchoModel, generate, make_core, request, run

from atoll.config import Settings
from atoll.engine import waiting
from atoll.engine.request import FinishReason, RequestState


def test_the_youngest_is_preempted_and_its_answer_is_the_same() -> None:
    model = EchoModel()
    core = make_core(model, num_blocks=12, prefix_caching=False)
    prompts = [[i] * 6 for i in range(4)]
    assert generate(core, prompts, max_new_tokens=30) == [model.echo(p, 30) for p in prompts]
    assert core.stats().num_preemptions > 0


def test_decoding_goes_on_while_a_long_prompt_is_read() -> None:
    core = make_core(EchoModel(), num_blocks=256, max_mixed_prefill_tokens=8)
    short, short_sink = request([1], 40)
    core.add(short)
    core.step()
    long, long_sink = request([2] * 100, 4)
    core.add(long)
    before = len(short_sink.tokens)
    while not long_sink.tokens:
        core.step()
    # 100 prompt tokens at 8 in a step: 13 steps, in each of which the other got its token.
    assert len(short_sink.tokens) - before == 13


def test_prompts_in_chunks_share_one_budget() -> None:
    """What the chunk of a long prompt leaves is all that others may be let in with."""
    model = EchoModel()
    core = make_core(model, num_blocks=256, max_batch_prefill_tokens=8)
    prompts = [[1] * 19, [2] * 4, [3] * 30]
    sinks = []
    for prompt in prompts:
        made, sink = request(prompt, 1)
        core.add(made)
        sinks.append(sink)
    computed = []
    while core.is_busy:
        before = core.stats().num_forward_tokens
        core.step()
        computed.append(core.stats().num_forward_tokens - before)
    assert computed == [8, 8, 8, 8, 8, 8, 5]
    assert [sink.ids for sink in sinks] == [model.echo(prompt, 1) for prompt in prompts]


def test_newcomers_leave_a_block_to_everyone_who_runs() -> None:
    """Else the next token of the running one would put the newcomer out again at once."""
    model = EchoModel()
    core = make_core(model, num_blocks=4)
    first, second = [1] * 3, [2] * 12
    made = [request(first, 5), request(second, 4)]
    core.add(made[0][0])
    core.step()
    core.add(made[1][0])
    run(core)
    assert [sink.ids for _, sink in made] == [model.echo(first, 5), model.echo(second, 4)]
    assert core.stats().num_preemptions == 0


def test_a_prompt_longer_than_the_cache_fits_a_window() -> None:
    """Blocks behind the window are given back as the prompt is read: only some are held at once."""
    model = EchoModel(window=6)
    core = make_core(model, num_blocks=8, max_batch_prefill_tokens=8)
    prompt = [i % 5 for i in range(60)]
    assert generate(core, [prompt], max_new_tokens=3) == [model.echo(prompt, 3)]


def test_the_outcome_tells_how_much_of_the_prompt_was_cached() -> None:
    core = make_core(EchoModel())
    for expected in (0, 8):
        made, sink = request([1, 2, 3, 4, 5, 6, 7, 8, 9], 2)
        core.add(made)
        run(core)
        assert sink.outcome is not None and sink.outcome.num_cached_tokens == expected
    stats = core.stats()
    assert (stats.num_queried_tokens, stats.num_hit_tokens) == (18, 8)


@pytest.mark.parametrize(("num_decoding", "num_waiting", "num_let_in"), [
    (1, 6, 6), (2, 6, 6), (3, 6, 4), (6, 6, 2), (6, 1, 1),
])  # fmt: skip
def test_a_crowd_is_let_in_together(num_decoding: int, num_waiting: int, num_let_in: int) -> None:
    """Beside 8 prompt tokens for everyone who decodes fits more, the more wait for each of them."""
    core = make_core(EchoModel(), num_blocks=256, max_mixed_prefill_tokens=8)
    for i in range(num_decoding):
        core.add(request([i], 40)[0])
    core.step()
    assert core.stats().num_running == num_decoding
    sinks = []
    for i in range(num_waiting):
        made, sink = request([i] * 4, 4)
        core.add(made)
        sinks.append(sink)
    core.step()
    assert sum(bool(sink.tokens) for sink in sinks) == num_let_in
    assert core.stats().num_running == num_decoding + num_let_in


def test_requests_are_served_in_order() -> None:
    core = make_core(EchoModel(), num_blocks=256, max_batch_size=2)
    sinks = []
    for i in range(6):
        made, sink = request([i], 5)
        core.add(made)
        sinks.append(sink)
    ends: list[int] = []
    while core.is_busy:
        core.step()
        assert core.stats().num_running <= 2
        ends += [i for i, s in enumerate(sinks) if s.ended.is_set() and i not in ends]
    assert ends == sorted(ends)


@pytest.mark.parametrize(
    ("aging_s", "order"),
    [
        (30.0, [2, 5, 0, 4, 1, 3]),
        (0.0, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_lower_priorities_are_served_first(aging_s: float, order: list[int]) -> None:
    """Of equal ones, the first to come; with 0, the setting turns priorities off."""
    core = make_core(EchoModel(), max_batch_size=1, priority_aging_s=aging_s)
    made = [request([i], 3, priority=priority) for i, priority in enumerate((0, 5, -1, 5, 0, -1))]
    for one, _ in made:
        core.add(one)
    ends: list[int] = []
    while core.is_busy:
        core.step()
        ends += [i for i, (_, s) in enumerate(made) if s.ended.is_set() and i not in ends]
    assert ends == order


def test_no_request_waits_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of priority 1 goes before those of priority 0 that came 30 s after it or later."""
    times = iter((0.0, 29.0, 31.0))
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: next(times)))
    queue = waiting.WaitingQueue(30.0)
    low, soon, late = (RequestState(request([1], priority=one)[0]) for one in (1, 0, 0))
    for sequence in (low, soon, late):
        queue.add(sequence)
    assert list(queue) == [soon, low, late]
    assert waiting.last_due([late, soon, low]) is late
    queue.remove(low)
    queue.put_back(low)
    assert list(queue) == [soon, low, late]


def test_the_lowest_class_is_preempted_first() -> None:
    """Though it was there first; without priorities, the younger one would be."""
    model = EchoModel()
    core = make_core(model, num_blocks=12, prefix_caching=False)
    made = [request([i] * 6, 30, priority=priority) for i, priority in enumerate((5, 0))]
    for one, _ in made:
        core.add(one)
        core.step()
    low, high = core.scheduler.running
    while not made[1][1].ended.is_set():
        assert high in core.scheduler.running
        core.step()
        core.scheduler.check_integrity()
    assert core.stats().num_preemptions == 1 and list(core.scheduler.waiting) == [low]
    run(core)
    assert [sink.ids for _, sink in made] == [model.echo([i] * 6, 30) for i in range(2)]


def test_waiting_served_ratio_delays_newcomers() -> None:
    """With a ratio of 1.2, one newcomer beside one running waits max_waiting_tokens steps."""
    core = make_core(EchoModel(), waiting_served_ratio=1.2, max_waiting_tokens=5)
    core.add(request([1], 30)[0])
    core.step()
    made, sink = request([2], 3)
    core.add(made)
    steps = 0
    while not sink.tokens:
        core.step()
        steps += 1
    assert steps == 6


@pytest.mark.parametrize("num_running", [1, 20, 50])
def test_newcomers_start_at_once_by_default(num_running: int) -> None:
    """With 20 streams running, a first token came up to 20 steps after its request."""
    defaults = Settings()
    core = make_core(
        EchoModel(), num_blocks=2048, max_batch_size=defaults.max_batch_size,
        waiting_served_ratio=defaults.waiting_served_ratio,
        max_waiting_tokens=defaults.max_waiting_tokens,
    )  # fmt: skip
    for i in range(num_running):
        core.add(request([i], 200)[0])
    core.step()
    for i in range(8):
        made, sink = request([i, i, i], 5)
        core.add(made)
        core.step()
        assert len(sink.tokens) == 1


def test_window_frees_blocks_behind_it() -> None:
    model = EchoModel(window=6)
    core = make_core(model, num_blocks=64)
    made, _ = request([1, 2, 3], 60)
    core.add(made)
    used = []
    while core.is_busy:
        core.step()
        used.append(core.stats().num_used_blocks)
    assert max(used) <= 3


def test_stop_strings_and_stop_tokens() -> None:
    model = EchoModel()
    expected = model.echo([5], 10)
    core = make_core(model)
    for num_late in (0, 1, 3):
        made, sink = request([5], 10)
        core.add(made)
        while len(sink.ids) < 4 + num_late:
            core.step()
        core.finish(made, 4)
        assert run(core) == 0
        assert sink.ids[:4] == expected[:4] and len(sink.ids) == 4 + num_late
        assert sink.outcome is not None and sink.outcome.reason is FinishReason.STOP
        assert sink.outcome.num_output_tokens == 4
        core.finish(made, 4)  # once more changes nothing
    end = expected[5]
    for options, reason in (
        ({"eos_token_ids": frozenset([end])}, FinishReason.EOS),
        ({"stop_token_ids": frozenset([end])}, FinishReason.STOP),
        ({"eos_token_ids": frozenset([end]), "ignore_eos": True}, FinishReason.LENGTH),
    ):
        made, sink = request([5], 10, **options)  # type: ignore[arg-type]
        core.add(made)
        run(core)
        assert sink.outcome is not None and sink.outcome.reason is reason
        assert len(sink.ids) == (10 if reason is FinishReason.LENGTH else expected.index(end) + 1)

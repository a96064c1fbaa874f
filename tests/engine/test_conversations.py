"""Conversations: what a turn reuses of the ones before, and when their blocks are given up."""

import pytest
from driving import EchoModel, generate, make_core, request, run


@pytest.mark.parametrize("window", [None, 3, 9])
@pytest.mark.parametrize("is_still_running", [True, False])
def test_what_was_computed_beyond_a_stop_is_not_kept(
    window: int | None, is_still_running: bool
) -> None:
    model = EchoModel(window=window)
    core = make_core(model, prefix_caching=False)
    for num_kept in range(1, 9):
        prompt = [1, 2, 3, 4, 5, 6, 7]
        made, sink = request(prompt, 60 if is_still_running else 9, session_id="s")
        core.add(made)
        while core.is_busy and len(sink.ids) < 9:
            core.step()
        assert core.is_busy == is_still_running
        core.finish(made, num_kept)
        core.scheduler.check_integrity()
        kept = core.scheduler.session_cache._entries.get("s")
        said = prompt + sink.ids[:num_kept]
        assert kept is None or kept.token_ids == said[: len(kept.token_ids)]
        if window is None:
            assert kept is not None and len(kept.token_ids) == len(said) - 1
        made, sink = request([*said, 50, 51], 5, session_id="s")
        core.add(made)
        run(core)
        assert sink.ids == model.echo([*said, 50, 51], 5)
        core.scheduler.session_cache.forget("s")
    assert core.stats().num_used_blocks == 0


def test_a_conversation_prefills_only_what_is_new() -> None:
    """Three turns; each finds all but its new text in the blocks that the turn before left."""
    model, core = EchoModel(), None
    core = make_core(model, num_blocks=64, prefix_caching=False)
    history: list[int] = []
    computed = []
    for turn in ([1, 2, 3, 4, 5, 6, 7], [8, 9, 10], [11] * 5):
        prompt = history + turn
        before = core.stats().num_forward_tokens
        made, sink = request(prompt, 6, session_id="s")
        core.add(made)
        run(core)
        assert sink.ids == model.echo(prompt, 6)
        computed.append(core.stats().num_forward_tokens - before)
        history = prompt + sink.ids
    # The new text, the last token of the answer before it, and the answer but its last token.
    assert computed == [7 + 5, 3 + 1 + 5, 5 + 1 + 5]
    assert core.stats().num_kept_sessions == 1 and core.stats().num_used_blocks > 0
    core.scheduler.session_cache.forget("s")
    assert core.stats().num_used_blocks == 0


def test_a_changed_conversation_is_computed_from_where_it_differs() -> None:
    model = EchoModel()
    core = make_core(model, prefix_caching=False)
    first, sink = request([1, 2, 3, 4, 5, 6], 4, session_id="s")
    core.add(first)
    run(core)
    edited = [1, 2, 3, 9, 9]
    second, sink = request(edited, 4, session_id="s")
    core.add(second)
    run(core)
    assert sink.ids == model.echo(edited, 4)


def test_a_conversation_keeps_nothing_of_another_adapter() -> None:
    """Its keys and values are others for the same tokens."""
    core = make_core(EchoModel(), prefix_caching=False, adapters=("a", "b"))
    cached = []
    for adapter in ("a", "a", "b", "b", None):
        made, sink = request([1, 2, 3, 4, 5, 6], 4, session_id="s", adapter_id=adapter)
        core.add(made)
        run(core)
        assert sink.outcome is not None
        cached.append(sink.outcome.num_cached_tokens)
    assert cached == [0, 5, 0, 5, 0]


@pytest.mark.parametrize("prefix_caching", [False, True])
def test_a_shortened_conversation_does_not_look_at_what_its_window_gave_back(
    prefix_caching: bool,
) -> None:
    """The text ends earlier than before, so its window begins earlier, too."""
    model = EchoModel(window=6)
    core = make_core(model, prefix_caching=prefix_caching)
    history = list(range(16))
    for prompt in (history, [*history[:13], 90, 91]):
        made, sink = request(prompt, 4, session_id="s")
        core.add(made)
        run(core)
        assert sink.error is None and sink.ids == model.echo(prompt, 4)


def test_idle_conversations_give_way_to_requests() -> None:
    model = EchoModel()
    core = make_core(model, num_blocks=10, prefix_caching=False)
    core.add(request([1] * 10, 4, session_id="s")[0])
    run(core)
    assert core.stats().num_kept_sessions == 1
    assert generate(core, [[2] * 30], max_new_tokens=8) == [model.echo([2] * 30, 8)]
    assert core.stats().num_kept_sessions == 0 and core.stats().num_preemptions == 0

"""States of recurrent layers: who holds them, what is saved of them, and how they go back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from driving import VOCAB, generate, load, make_core, reference_greedy, request, run
from stateful import MixedModel, StateModel
from tiny.checkpoint import write
from tiny.decoders import DECODERS

from atoll.config import Settings
from atoll.engine.core import EngineCore
from atoll.engine.speculation import NgramDraft
from atoll.errors import ConfigError
from atoll.runner.memory import state_size
from atoll.runner.states import StateSize

KINDS = pytest.mark.parametrize("kind", [StateModel, MixedModel])
PROMPT = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]


class LoopModel(StateModel):
    """Says numbers in turn until one, then others: guesses are right, and wrong at the end."""

    def _numbers(self, batch: Any) -> list[int]:
        super()._numbers(batch)
        return [_next(token) for token in batch.input_ids.tolist()]

    def _following(self, ids: list[int]) -> int:
        return _next(ids[-1])


def _next(token: int) -> int:
    return (token + 1) % 9


def turn(core: EngineCore, prompt: list[int], count: int = 6, **options: Any) -> tuple[Any, int]:
    """The sink of a turn of a conversation, and how many tokens were computed for it."""
    before = core.stats().num_forward_tokens
    made, sink = request(prompt, count, session_id="s", **options)
    core.add(made)
    run(core)
    return sink, core.stats().num_forward_tokens - before


@KINDS
def test_a_prefix_is_shared_where_its_state_was_saved(kind: Any) -> None:
    """At the last border of a prompt, and where a second one parts from the first."""
    model = kind()
    core = make_core(model, max_batch_prefill_tokens=64)
    found = []
    for prompt in (PROMPT, PROMPT, [*PROMPT[:6], 1, 2, 3, 4], [*PROMPT[:5], 9, 9], PROMPT):
        made, sink = request(prompt, 5)
        core.add(made)
        run(core)
        assert sink.ids == model.echo(prompt, 5) and sink.outcome is not None
        found.append(sink.outcome.num_cached_tokens)
    # Blocks have 4 tokens. The third shares a block whose state was not saved, which it saves.
    assert found == [0, 8, 0, 4, 8]
    assert core.stats().num_hit_tokens == sum(found)


def test_the_snapshot_that_was_not_used_longest_is_overwritten() -> None:
    model = StateModel()
    core = make_core(model, states=StateSize(4, 2))
    prompts = [[first, *PROMPT[1:]] for first in (1, 2, 3)]
    for at, hit in ((0, 0), (1, 0), (0, 8), (2, 0), (0, 8), (1, 0)):
        before = core.stats().num_hit_tokens
        assert generate(core, [prompts[at]], max_new_tokens=3) == [model.echo(prompts[at], 3)]
        assert core.stats().num_hit_tokens - before == hit
    assert core.stats().num_state_snapshots == 2


@KINDS
def test_a_conversation_computes_only_what_is_new(kind: Any) -> None:
    model = kind()
    core = make_core(model, states=StateSize(3, 0))
    history: list[int] = []
    computed = []
    for new in (PROMPT, [1, 2, 3], [4] * 5):
        prompt = history + new
        sink, count = turn(core, prompt)
        assert sink.ids == model.echo(prompt, 6)
        computed.append(count)
        history = prompt + sink.ids
    assert computed == [10 + 5, 3 + 1 + 5, 5 + 1 + 5]
    assert core.stats().num_used_state_slots == 1
    core.scheduler.session_cache.forget("s")
    assert core.stats().num_used_state_slots == 0


@pytest.mark.parametrize("num_snapshots", [0, 4])
def test_an_edited_conversation_goes_back_to_the_last_snapshot(num_snapshots: int) -> None:
    model = StateModel()
    core = make_core(model, states=StateSize(2 + num_snapshots, num_snapshots))
    sink, _ = turn(core, PROMPT)
    edited = [*PROMPT, sink.ids[0], 90, 91]
    sink, count = turn(core, edited)
    assert sink.ids == model.echo(edited, 6)
    assert count == len(edited) + 5 - (8 if num_snapshots else 0)


def test_what_was_computed_beyond_a_stop_is_in_no_state() -> None:
    model = StateModel()
    core = make_core(model)
    made, sink = request(PROMPT, 9, session_id="s")
    core.add(made)
    run(core)
    core.finish(made, 3)
    core.scheduler.check_integrity()
    prompt = [*PROMPT, *sink.ids[:3], 50, 51]
    sink, count = turn(core, prompt, 4)
    assert sink.ids == model.echo(prompt, 4) and count == len(prompt) + 3 - 8


def test_wrong_guesses_are_taken_back() -> None:
    model = LoopModel()
    prompt = [3, 4, 5, 70, 3, 4, 5, 6, 7, 8, 0, 1, 2, 60, 3, 4]
    core = make_core(model, draft=NgramDraft(3))
    assert generate(core, [prompt], max_new_tokens=40) == [model.echo(prompt, 40)]
    stats = core.stats()
    assert 0 < stats.num_accepted_tokens < stats.num_drafted_tokens
    assert stats.num_used_state_slots == 0


def test_without_a_second_slot_nothing_is_guessed() -> None:
    core = make_core(LoopModel(), draft=NgramDraft(3), states=StateSize(1, 0))
    assert generate(core, [[0, 1]], max_new_tokens=40) == [LoopModel().echo([0, 1], 40)]
    assert core.stats().num_drafted_tokens == 0


def test_requests_wait_for_a_slot_and_idle_conversations_give_theirs_up() -> None:
    model = StateModel()
    core = make_core(model, states=StateSize(2, 0))
    turn(core, PROMPT)
    made = [request([i, 1, 2], 6) for i in range(5)]
    for one, _ in made:
        core.add(one)
    core.step()
    assert core.stats().num_running == 2 and core.stats().num_kept_sessions == 0
    run(core)
    assert [sink.ids for _, sink in made] == [model.echo([i, 1, 2], 6) for i in range(5)]
    assert core.stats().num_preemptions == 0


def test_a_request_that_waits_for_a_slot_costs_no_conversation_its_blocks() -> None:
    """One without a state has none to give."""
    model = StateModel()
    core = make_core(model, states=StateSize(1, 0))
    turn_of_nine, _ = request(PROMPT, 9, session_id="s")
    core.add(turn_of_nine)
    run(core)
    core.finish(turn_of_nine, 3)
    made = [request([i, 1, 2], 6) for i in range(2)]
    for one, _ in made:
        core.add(one)
    run(core)
    assert [sink.ids for _, sink in made] == [model.echo([i, 1, 2], 6) for i in range(2)]
    assert core.stats().num_kept_sessions == 1


def test_a_failed_step_leaves_no_state_behind() -> None:
    class Failing(StateModel):
        def __call__(self, batch: Any) -> Any:
            out = super().__call__(batch)
            if self.forwards == 3:
                raise RuntimeError("broken")
            return out

    model = Failing()
    core = make_core(model)
    made, sink = request(PROMPT, 20)
    core.add(made)
    run(core)
    assert sink.error is not None and core.stats().num_failed_steps == 1
    assert core.stats().num_used_state_slots == core.stats().num_state_snapshots == 0
    assert generate(core, [PROMPT], max_new_tokens=5) == [model.echo(PROMPT, 5)]


def test_a_hybrid_in_a_conversation(tmp_path: Path) -> None:
    reference = write(next(v for v in DECODERS if v.name == "qwen3.5"), tmp_path).model
    core = make_core(load(tmp_path), num_blocks=96)
    core._runner.buffer_decoding(4)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(4)
    history: list[int] = []
    for _ in range(3):
        history += torch.randint(3, VOCAB, (7,), generator=generator).tolist()
        sink, _ = turn(core, history)
        assert sink.ids == reference_greedy(reference, history, 6)
        history += sink.ids


def test_slots_take_at_most_half_of_the_room() -> None:
    settings = Settings(max_batch_size=8, state_snapshots=4)
    assert state_size(settings, 10, 1000, is_host=False) == StateSize(12, 4)
    assert state_size(replace(settings, speculate=3), 10, 1000, is_host=False) == StateSize(20, 4)
    uncached = replace(settings, prefix_caching=False)
    assert state_size(uncached, 10, 1000, is_host=False) == StateSize(8, 0)
    assert state_size(settings, 100, 1200, is_host=False) == StateSize(6, 2)
    assert state_size(settings, 900, 1000, is_host=False) == StateSize(1, 0)
    with pytest.raises(ConfigError, match="state of one sequence takes 1.5 MB.* room for 1.0 MB"):
        state_size(settings, 1_500_000, 1_000_000, is_host=False)

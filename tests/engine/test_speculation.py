"""Guessed tokens save steps and change nothing."""

import dataclasses
from pathlib import Path

import pytest
import torch
from driving import VOCAB, EchoModel, generate, load, make_core, request, run, save_llama
from torch import Tensor

from atoll.engine.request import RequestState
from atoll.engine.speculation import NgramDraft

PROMPT = [1, 2]
ANSWER = EchoModel().echo(PROMPT, 40)


class LoopModel(EchoModel):
    """Says the alphabet over and over: easy to guess once it has been through it."""

    def _next(self, context: list[int]) -> int:
        return (context[-1] + 1) % 7


class UncertainModel(LoopModel):
    """The next letter with probability 0.8, so that guesses are often right and often wrong."""

    def logits(self, hidden: Tensor) -> Tensor:
        flat = torch.zeros(len(hidden), self.vocab_size)
        return flat.scatter(1, hidden.long(), torch.full((len(hidden), 1), 5.9))


def test_guesses_what_followed_before() -> None:
    def guess(ids: list[int], count: int, room: int = 100) -> list[int]:
        return NgramDraft(count)(RequestState(request(ids, room)[0]))

    assert guess([1, 2, 3, 4, 9, 1, 2, 3], 3) == [4, 9, 1]
    assert guess([1, 2, 3, 4, 9, 2, 3], 2) == [4, 9]
    assert guess([5, 2, 3, 8, 1, 2, 3, 7, 6, 1, 2, 3], 1) == [7], "the longest, latest match"
    assert guess([1, 2, 3], 3) == []
    assert guess([1, 2, 1, 2], 5, room=3) == [1, 2]
    assert guess([1, 2, 1, 2], 5, room=1) == []


def test_guesses_by_a_prediction_go_first() -> None:
    draft = NgramDraft(3)
    made, _ = request([1, 2, 5, 1, 2], 100)
    state = RequestState(dataclasses.replace(made, prediction_ids=(1, 2, 3, 4, 1, 2, 3, 7, 8)))
    for output, guess in (
        ([1], [2, 3, 4]),
        ([1, 2, 3], [4, 1, 2]),
        ([1, 2, 3, 4, 1, 2, 3], [7, 8]),
        # Elsewhere it goes on where the same tokens are next, or else where they were.
        ([1, 2, 3, 9], []),
        ([1, 2, 3, 9, 2, 3], [7, 8]),
        ([1, 2, 3, 9, 2, 3, 4], [1, 2, 3]),
    ):
        state.token_ids[5:] = output
        assert draft(state) == guess and state.predicts == bool(guess), output
    state.token_ids[5:] = [9, 1, 2]
    assert draft(state) == [3, 4, 1]
    state.token_ids[5:] = [9, 2, 5]
    assert draft(state) == [1, 2, 9] and not state.predicts, "the text, where no prediction helps"


@pytest.mark.parametrize(
    ("prediction", "num_accepted", "num_rejected"),
    [
        (ANSWER, 31, 0),
        ([*ANSWER[:18], (ANSWER[18] + 1) % VOCAB, *ANSWER[19:]], 29, 2),
        ([0] * 40, 0, 0),
    ],
)
def test_a_prediction_saves_steps_and_changes_nothing(
    prediction: list[int], num_accepted: int, num_rejected: int
) -> None:
    made, sink = request(PROMPT, len(ANSWER))
    core = make_core(EchoModel(), draft=NgramDraft(4))
    core.add(dataclasses.replace(made, prediction_ids=tuple(prediction)))
    run(core)
    assert sink.ids == ANSWER and sink.outcome is not None
    assert sink.outcome.num_accepted_tokens == num_accepted
    assert sink.outcome.num_rejected_tokens == num_rejected
    assert core.stats().num_steps == len(ANSWER) - num_accepted


def test_right_guesses_save_steps() -> None:
    model = LoopModel()
    core = make_core(model, draft=NgramDraft(4))
    assert generate(core, [[0, 1]], max_new_tokens=60) == [model.echo([0, 1], 60)]
    stats = core.stats()
    assert stats.num_steps < 25
    assert stats.num_accepted_tokens == stats.num_drafted_tokens > 35


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("options", [{}, {"do_sample": True}], ids=["greedy", "sampled"])
def test_answers_are_the_same(size: int, options: dict[str, bool]) -> None:
    """Sampled too, token for token, with little room so that sequences are preempted."""
    prompts = [[i % 7, (i + 1) % 7] * (i + 1) for i in range(5)]
    answers = []
    for draft in (None, NgramDraft(size)):
        core = make_core(UncertainModel(), num_blocks=22, draft=draft, prefix_caching=False)
        answers.append(generate(core, prompts, max_new_tokens=40, seed=11, **options))
        assert core.stats().num_preemptions > 0
    stats = core.stats()
    assert answers[0] == answers[1]
    assert stats.num_accepted_tokens > 0
    if options:
        assert stats.num_accepted_tokens < stats.num_drafted_tokens


def test_end_inside_a_guess() -> None:
    """Tokens after the end are dropped, though they were guessed right."""
    model = LoopModel()
    core = make_core(model, draft=NgramDraft(6))
    made, sink = request([0, 1, 2, 3, 4, 5, 6, 0, 1, 2], 40, stop_token_ids=frozenset([5]))
    core.add(made)
    run(core)
    assert sink.ids == [3, 4, 5]


def test_processed_logits_are_not_guessed() -> None:
    core = make_core(LoopModel(), draft=NgramDraft(4))
    generate(core, [[0, 1]], max_new_tokens=30, repetition_penalty=1.1)
    assert core.stats().num_drafted_tokens == 0


def test_greedy_of_a_real_layout_is_identical(tmp_path: Path) -> None:
    """A random Llama, whose answers fall into loops that are guessed right."""
    save_llama(tmp_path)
    model = load(tmp_path)
    generator = torch.Generator().manual_seed(8)
    prompts = [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in (3, 9, 20)]
    plain = generate(make_core(model, num_blocks=96), prompts, max_new_tokens=80)
    core = make_core(model, num_blocks=96, draft=NgramDraft(5))
    assert generate(core, prompts, max_new_tokens=80) == plain
    assert core.stats().num_accepted_tokens > 0

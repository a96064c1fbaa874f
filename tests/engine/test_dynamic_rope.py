"""Dynamic rope, where keys depend on a prompt's length: nothing that ran before changes answers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from driving import VOCAB, generate, load, make_core, request, run, save_llama

from atoll.engine.speculation import NgramDraft

TRAINED, COUNT = 24, 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trained for 24 positions, so that most texts here are beyond them."""
    folder: Path = tmp_path_factory.mktemp("dynamic")
    scaling = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    save_llama(folder, max_position_embeddings=TRAINED, rope_parameters=scaling)
    return load(folder)


def _texts(*lengths: int) -> list[list[int]]:
    """All begin alike."""
    ids = torch.randint(VOCAB, (max(lengths),), generator=torch.Generator().manual_seed(5)).tolist()
    return [ids[:length] for length in lengths]


def _cold(model: Any, prompt: list[int], count: int = COUNT) -> list[int]:
    core = make_core(model, prefix_caching=False)
    return generate(core, [prompt], max_new_tokens=count)[0]


@pytest.mark.parametrize("order", [1, -1])
def test_shared_prefixes(model: Any, order: int) -> None:
    """20 of 20 answers were changed by an earlier request with the same beginning."""
    prompts = _texts(8, 12, 20, 23, 24, 25, 26, 30, 40, 50, 60)[::order]
    core = make_core(model, num_blocks=256)
    for prompt in prompts * 2:
        assert generate(core, [prompt], max_new_tokens=COUNT)[0] == _cold(model, prompt)
    assert core.stats().num_hit_tokens > 0, "texts of one length share their blocks"


def test_conversations(model: Any) -> None:
    """The turns grow past the trained positions, in the prompt and in the answer."""
    core, text = make_core(model, num_blocks=256), _texts(9)[0]
    num_kept = []
    for _ in range(4):
        made, sink = request(text, 9, session_id="s")
        core.add(made)
        run(core)
        assert sink.ids == _cold(model, text, 9)
        assert sink.outcome is not None
        num_kept.append(sink.outcome.num_cached_tokens)
        text = text + sink.ids + [3, 1]
    assert num_kept[1] > 0 and num_kept[3] == 0


@pytest.mark.parametrize("size", [2, 6])
def test_guesses(model: Any, size: int) -> None:
    """A guess counted into the length that its neighbours were rotated for."""

    def perfect(sequence: Any) -> list[int]:
        known = answers[tuple(sequence.request.prompt_ids)]
        start = sequence.num_output_tokens
        return [*known[start : start + size - 1], 0][: COUNT - start - 1]

    prompts = _texts(10, 22, 40)
    answers = {tuple(prompt): _cold(model, prompt) for prompt in prompts}
    for draft in (perfect, NgramDraft(size)):
        core = make_core(model, draft=draft)
        assert generate(core, prompts, max_new_tokens=COUNT) == list(answers.values())
        if draft is perfect:
            assert core.stats().num_accepted_tokens > COUNT


def test_preemption_and_chunks(model: Any) -> None:
    """What is computed again after a preemption was rotated for another length."""
    prompts = _texts(10, 22, 30, 40)
    core = make_core(model, num_blocks=22, max_batch_prefill_tokens=7)
    answers = generate(core, prompts, max_new_tokens=COUNT)
    assert core.stats().num_preemptions > 0
    assert answers == [_cold(model, prompt) for prompt in prompts]

"""Words that may not come, tokens that no answer begins with, and one that ends answers of full
length: greedy answers are those of transformers' ``generate``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from driving import VOCAB, Collector, load, make_core, run, save_llama
from tiny.bart import START, write_bart

from atoll.engine.request import FinishReason, Request, SamplingOptions

COUNT, EOS = 12, 7
PROMPTS = [
    torch.randint(8, VOCAB, (n,), generator=torch.Generator().manual_seed(n)).tolist()
    for n in (1, 9, 20)
]


@pytest.fixture(scope="module", params=["llama", "marian"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Our model, transformers', and whether there is an encoder."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    is_marian = request.param == "marian"
    reference = write_bart("marian", folder) if is_marian else save_llama(folder)
    reference.generation_config.forced_eos_token_id = None  # of Marian's config class
    return load(folder), reference, is_marian


@torch.inference_mode()
def _expected(case: Any, prompt: list[int], **options: Any) -> list[int]:
    _, reference, is_marian = case
    ids = torch.tensor([prompt])
    start = {"decoder_start_token_id": START} if is_marian else {}
    found = reference.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=COUNT, do_sample=False,
        pad_token_id=0, eos_token_id=EOS, **start, **options,
    )  # fmt: skip
    answer: list[int] = found[0, 1 if is_marian else len(prompt) :].tolist()
    return answer


def _answers(case: Any, **options: Any) -> list[Collector]:
    core, sinks = make_core(case[0], vocab_size=VOCAB), list[Collector]()
    given = SamplingOptions(max_new_tokens=COUNT, eos_token_ids=frozenset({EOS}), **options)
    for index, prompt in enumerate(PROMPTS):
        sinks.append(Collector())
        ids, inputs = ([START], prompt) if case[2] else (prompt, [])
        core.add(Request(str(index), tuple(ids), given, sinks[-1], encoder_ids=tuple(inputs)))
    run(core)
    assert [sink.error for sink in sinks] == [None] * len(PROMPTS)
    return sinks


def test_words_that_may_not_come(case: Any) -> None:
    """Taken from the answers without them; a word may begin in the prompt."""
    words: list[list[int]] = []
    for _ in range(3):
        options = {"bad_words_ids": words} if words else {}
        expected = [_expected(case, prompt, **options) for prompt in PROMPTS]
        bad = tuple(map(tuple, words))
        assert [sink.ids for sink in _answers(case, bad_words=bad)] == expected
        words += [[*prompt[-1:], ids[0]] for prompt, ids in zip(PROMPTS, expected, strict=True)]
        words += [ids[3:6] for ids in expected] + [ids[7:9] for ids in expected]


def test_what_no_answer_begins_with(case: Any) -> None:
    first = [_expected(case, prompt)[0] for prompt in PROMPTS]
    expected = [_expected(case, prompt, begin_suppress_tokens=first) for prompt in PROMPTS]
    found = _answers(case, begin_suppress_tokens=tuple(first))
    assert [sink.ids for sink in found] == expected
    assert not {ids[0] for ids in expected} & {*first}


def test_answers_of_full_length_end_with_a_token(case: Any) -> None:
    expected = [_expected(case, prompt, forced_eos_token_id=EOS) for prompt in PROMPTS]
    found = _answers(case, forced_eos_token_id=EOS)
    assert [sink.ids for sink in found] == expected
    assert {ids[-1] for ids in expected} == {EOS}
    # It is not the end that the model has chosen.
    reasons = [None if sink.outcome is None else sink.outcome.reason for sink in found]
    lengths = [len(ids) == COUNT for ids in expected]
    assert reasons == [FinishReason.LENGTH if full else FinishReason.EOS for full in lengths]

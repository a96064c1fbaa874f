"""Beam search equals transformers' ``generate``, however the work is cut into steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from driving import (
    VOCAB,
    Collector,
    EchoModel,
    load,
    make_core,
    reference_greedy,
    request,
    run,
    save_llama,
)
from tiny.bart import write_bart
from tiny.t5 import write_t5

from atoll.engine.core import EngineCore
from atoll.engine.request import Request, SamplingOptions
from atoll.engine.speculation import NgramDraft
from atoll.errors import Cancelled, GenerationError

COUNT = 12
EOS = frozenset({7, 30})
PROMPTS = [
    torch.randint(3, VOCAB, (n,), generator=torch.Generator().manual_seed(n)).tolist()
    for n in (1, 16, 30)
]
# Ours, and what transformers has in their place.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two": {"num_beams": 2},
    "long": {"length_penalty": 2.0},
    "short": {"length_penalty": -1.0},
    "first": {"early_stopping": True},
    "patient": {"early_stopping": "never", "length_penalty": 0.7},
    "canonical": {"early_stopping": "never", "length_penalty": 0.0},
    "repetition": {"repetition_penalty": 1.4},
    "ngrams": {"no_repeat_ngram_size": 2},
    "at-least": {"min_new_tokens": 6, "early_stopping": True},
    "banned": {"logit_bias": tuple((token, float("-inf")) for token in range(40, 60))},
    "forced-end": {"forced_eos_token_id": 7},
    "no-end": {"ignore_eos": True},
}


def _options(options: dict[str, Any]) -> SamplingOptions:
    given = {"num_beams": 4, "eos_token_ids": EOS, **options}
    return SamplingOptions(max_new_tokens=COUNT, **given)


@torch.inference_mode()
def _expected(
    reference: Any, prompt: Sequence[int], options: dict[str, Any], **inputs: Any
) -> list[list[int]]:
    """All beams of ``generate``, best first. inputs: of an encoder-decoder."""
    named = {"num_beams": 4, "use_cache": not inputs, "max_new_tokens": COUNT, **options, **inputs}
    if "logit_bias" in named:
        named["suppress_tokens"] = [token for token, _ in named.pop("logit_bias")]
    ends = None if named.pop("ignore_eos", False) else sorted(EOS)
    named["decoder_input_ids" if inputs else "input_ids"] = torch.tensor([prompt])
    out = reference.generate(
        do_sample=False, pad_token_id=0, eos_token_id=ends,
        num_return_sequences=named["num_beams"], **named,
    )  # fmt: skip
    found = []
    for ids in out[:, len(prompt) :].tolist():
        end = next((at for at, i in enumerate(ids) if i in EOS and ends), len(ids))
        found.append(ids[: end + 1])
    return found


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("llama")
    reference = save_llama(folder)
    return load(folder), reference


@pytest.fixture(scope="module")
def plain(case: Any) -> list[tuple[list[list[int]], list[int]]]:
    """transformers' answers to each prompt without further options, and its greedy one."""
    found = [_expected(case[1], prompt, {}) for prompt in PROMPTS]
    greedy = [reference_greedy(case[1], prompt, COUNT) for prompt in PROMPTS]
    return list(zip(found, greedy, strict=True))


def _add(
    core: EngineCore, name: str, prompt: Sequence[int], chosen: SamplingOptions,
    inputs: Sequence[int] = (),
) -> list[Collector]:  # fmt: skip
    sinks = [Collector() for _ in range(chosen.num_beams)]
    made = Request(
        name, tuple(prompt), chosen, sinks[0], other_sinks=tuple(sinks[1:]),
        encoder_ids=tuple(inputs),
    )  # fmt: skip
    core.add(made)
    return sinks


def _texts(sinks: list[Collector]) -> list[list[int]]:
    assert [sink.error for sink in sinks] == [None] * len(sinks)
    return [sink.ids for sink in sinks]


@pytest.mark.parametrize("name", OPTIONS)
def test_answers_are_transformers(case: Any, name: str) -> None:
    model, reference = case
    core = make_core(model, num_blocks=256)
    chosen = _options(OPTIONS[name])
    sinks = [_add(core, f"r{i}", prompt, chosen) for i, prompt in enumerate(PROMPTS)]
    run(core)
    for prompt, found in zip(PROMPTS, sinks, strict=True):
        assert _texts(found) == _expected(reference, prompt, OPTIONS[name])
    assert core.stats().num_used_blocks == 0


@pytest.mark.parametrize("num_top", [0, 3])
def test_log_probabilities_are_those_of_the_answers(case: Any, num_top: int) -> None:
    """Under the model's own logits, whatever the penalties make of them."""
    model, reference = case
    chosen = _options({"logprobs": True, "top_logprobs": num_top, "repetition_penalty": 1.3})
    core, prompt = make_core(model), PROMPTS[1]
    sinks = _add(core, "r", prompt, chosen)
    run(core)
    for sink in sinks:
        with torch.inference_mode():
            logits = reference(torch.tensor([[*prompt, *sink.ids]])).logits[0, len(prompt) - 1 : -1]
        scores = logits.log_softmax(-1)
        expected = scores.gather(1, torch.tensor(sink.ids)[:, None])[:, 0]
        found = torch.tensor([token.logprob for token in sink.tokens])
        assert (found - expected).abs().max() < 1e-4
        ranks = (scores > expected[:, None] + 1e-4).sum(-1) + 1
        assert [token.rank for token in sink.tokens] == ranks.tolist()
        best = scores.topk(num_top).indices.tolist()
        assert [[i for i, _ in token.top] for token in sink.tokens] == best


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({"max_batch_prefill_tokens": 3, "max_mixed_prefill_tokens": 2}, id="chunks"),
        pytest.param({"num_blocks": 26, "prefix_caching": False}, id="preemption"),
        pytest.param({"num_blocks": 40}, id="prefixes-evicted"),
        pytest.param({"max_batch_size": 4}, id="one-search-at-a-time"),
        pytest.param({"max_batch_size": 9, "waiting_served_ratio": 0.5}, id="two-and-a-neighbour"),
        pytest.param({"block_size": 1}, id="blocks-of-a-token"),
        pytest.param({"block_size": 16, "draft": NgramDraft(3)}, id="guesses"),
        pytest.param({"is_replayed": True}, id="replayed"),
    ],
)
def test_scarcity_and_neighbours_change_nothing(
    case: Any, plain: list[tuple[list[list[int]], list[int]]], limits: dict[str, Any]
) -> None:
    limits = dict(limits)
    is_replayed = limits.pop("is_replayed", False)
    core, chosen = make_core(case[0], **{"num_blocks": 200, **limits}), _options({})
    if is_replayed:
        core._runner.buffer_decoding(16)  # type: ignore[attr-defined]
    for _ in range(2):  # the second time with prefix hits
        searches, greedy = [], []
        for i, prompt in enumerate(PROMPTS):
            searches.append(_add(core, f"s{i}", prompt, chosen))
            greedy.append(request(prompt, COUNT)[::-1])
            core.add(greedy[-1][1])
            core.step()
        run(core)
        found = [(_texts(s), sink.ids) for s, (sink, _) in zip(searches, greedy, strict=True)]
        assert found == plain
    assert core.stats().num_used_blocks == 0
    assert core.stats().num_preemptions > 0 or "num_blocks" not in limits


@pytest.mark.parametrize("num_blocks", [100, 13])
def test_blocks_that_a_window_has_passed_are_freed(tmp_path: Path, num_blocks: int) -> None:
    reference = save_llama(tmp_path, sliding_window=8)
    core, chosen = make_core(load(tmp_path), num_blocks=num_blocks), _options({})
    sinks = [_add(core, f"r{i}", prompt, chosen) for i, prompt in enumerate(PROMPTS)]
    run(core)
    assert [*map(_texts, sinks)] == [_expected(reference, prompt, {}) for prompt in PROMPTS]
    assert core.stats().num_used_blocks == 0


@pytest.fixture(scope="module", params=["t5", "bart", "m2m100"])
def translator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder, kind = tmp_path_factory.mktemp(request.param), request.param
    reference = write_t5(kind, folder) if kind == "t5" else write_bart(kind, folder)
    return load(folder), reference


@pytest.mark.parametrize("name", ["plain", "long", "ngrams", "patient", "forced-end"])
def test_answers_to_an_encoder_s_input_are_transformers(translator: Any, name: str) -> None:
    """What the decoder is given behind its start counts for the length of an answer."""
    model, reference = translator
    core, options = make_core(model, num_blocks=40, vocab_size=100), OPTIONS[name]
    inputs = [[*range(8, 8 + n)] for n in (3, 17, 30)]
    forced = {"forced_bos_token_id": 11, "max_new_tokens": COUNT + 1}
    start, chosen = reference.config.decoder_start_token_id, _options(options)
    sinks = [_add(core, f"r{i}", (start, 11), chosen, ids) for i, ids in enumerate(inputs)]
    run(core)
    for ids, found in zip(inputs, sinks, strict=True):
        asked = {"forced_eos_token_id": None, **options, **forced}
        expected = _expected(reference, (start,), asked, input_ids=torch.tensor([ids]))
        assert [[11, *text] for text in _texts(found)] == expected
    assert core.stats().num_used_blocks == 0


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_a_search_ends_as_a_whole(case: Any, num_steps: int) -> None:
    """Cancelled in its first step, or with beams that share blocks: nothing of it is left."""
    core, chosen = make_core(case[0]), _options({})
    sinks = _add(core, "r", PROMPTS[1], chosen)
    for _ in range(num_steps):
        core.step()
    assert core.stats().num_running == 4
    core.cancel("r", Cancelled("no longer wanted"))
    core.scheduler.check_integrity()
    assert all(isinstance(sink.error, Cancelled) for sink in sinks)
    assert core.stats().num_running == core.stats().num_used_blocks == core.num_held == 0


class Wandering(EchoModel):
    """Any token may follow; its third step raises, or gives a row of NaN."""

    def __init__(self, raises: bool) -> None:
        super().__init__()
        self._raises = raises

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().logits(hidden) + torch.arange(VOCAB) * 0.01
        if self.forwards == 3:
            assert not self._raises, "out of luck"
            logits[1] = float("nan")
        return logits


@pytest.mark.parametrize("raises", [False, True])
def test_what_fails_ends_the_search_and_nothing_after_it(raises: bool) -> None:
    core, chosen = make_core(Wandering(raises)), _options({"eos_token_ids": frozenset()})
    sinks = _add(core, "r", [1, 2, 3, 4, 5], chosen)
    run(core)
    assert all(isinstance(sink.error, GenerationError) for sink in sinks)
    greedy, sink = request([8], 5)
    core.add(greedy)
    run(core)
    assert sink.error is None and core.stats().num_used_blocks == 0


def test_a_search_that_no_cache_can_hold_is_refused_by_name(case: Any) -> None:
    core = make_core(case[0], num_blocks=9)
    sinks = [_add(core, name, PROMPTS[1], _options({})) for name in ("a", "b")]
    small = _add(core, "c", [5], _options({"num_beams": 2}))
    assert run(core) < 200
    for sink in (*sinks[0], *sinks[1]):
        assert "num_beams is 4: with as many" in str(sink.error) and "9 blocks" in str(sink.error)
    assert all(sink.error is None for sink in small) and core.stats().num_used_blocks == 0


def test_too_few_tokens_are_left_for_so_many_answers(case: Any) -> None:
    """Beams die where options leave fewer tokens, and others take their places later."""
    every = {"logit_bias": tuple((token, float("-inf")) for token in range(1, VOCAB))}
    core = make_core(case[0])
    sinks = _add(core, "r", [5], _options(every))
    run(core)
    assert all("n is 4; options of the request left" in str(sink.error) for sink in sinks)
    made, sink = request([5], 3, num_beams=2, **every)
    core.add(made)
    run(core)
    assert sink.error is None and sink.ids == [0, 0, 0]

"""BART, mBART and M2M100 against transformers: the encoder packed, the decoder paged, and greedy
answers of the engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import DEVICE
from driving import Collector, load, make_core, run
from engines import answers, engine
from safetensors.torch import load_file, save_file
from tiny.bart import (
    CONFIGS,
    FIRST,
    START,
    TWO_VOCABULARIES,
    VOCAB,
    scores,
    write_bart,
    write_summarizer,
)
from tiny.paged import PagedRunner
from torch import Tensor

from atoll.catalogue import read_model
from atoll.config import Settings
from atoll.engine.request import Request, SamplingOptions
from atoll.errors import ConfigError, WeightError
from atoll.models.bart import Config
from atoll.models.detect import decide
from atoll.models.registry import Checkpoint, load_decoder
from atoll.weights.load import LoadOptions

COUNT = 12


@dataclass(frozen=True)
class Case:
    folder: Path
    reference: Any
    inputs: dict[str, list[int]]

    def expected(self, inputs: Sequence[int]) -> list[int]:
        """transformers' greedy answer behind the start and a forced token."""
        answer = [START, FIRST]
        for _ in range(COUNT):
            answer.append(int(scores(self.reference, inputs, answer)[-1].argmax()))
        return answer[2:]


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    reference = write_bart(request.param, folder)
    ids = torch.randint(3, VOCAB, (60,), generator=torch.Generator().manual_seed(5)).tolist()
    return Case(folder, reference, {"a": ids[:37], "b": ids[37:40], "c": ids[40:]})


def _paged(folder: Path, dtype: torch.dtype = torch.float32) -> PagedRunner:
    model = load_decoder(Checkpoint.open(folder), LoadOptions(dtype, DEVICE))
    return PagedRunner(model, dtype=dtype)


def _apart(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max() / reference.std())


def test_decoder_prompt_over_packed_inputs(case: Case) -> None:
    runner = _paged(case.folder)
    runner.encode(case.inputs)
    ids = [START, *case.inputs["c"]]
    out = runner.step({name: ids for name in case.inputs})
    for name, inputs in case.inputs.items():
        assert _apart(out[name], scores(case.reference, inputs, ids)) <= 1e-4


def test_bfloat16_is_close(case: Case) -> None:
    runner = _paged(case.folder, torch.bfloat16)
    runner.encode({"a": case.inputs["a"]})
    ids = [START, *case.inputs["c"]]
    out = runner.step({"a": ids})["a"]
    assert 0 < _apart(out, scores(case.reference, case.inputs["a"], ids)) < 0.3


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({}, id="plenty"),
        pytest.param({"num_blocks": 17}, id="preemption"),
        pytest.param({"max_batch_prefill_tokens": 8}, id="inputs-longer-than-the-budget"),
        pytest.param({"max_batch_size": 1}, id="one-at-a-time"),
    ],
)
def test_greedy_answers_begin_with_what_the_decoder_is_given(
    case: Case, limits: dict[str, Any]
) -> None:
    core = make_core(load(case.folder), vocab_size=VOCAB, **limits)
    sinks = []
    for name, inputs in case.inputs.items():
        sinks.append(Collector())
        options = SamplingOptions(max_new_tokens=COUNT)
        core.add(Request(name, (START, FIRST), options, sinks[-1], encoder_ids=tuple(inputs)))
    run(core)
    assert [sink.error for sink in sinks] == [None] * 3
    assert [sink.ids for sink in sinks] == [case.expected(ids) for ids in case.inputs.values()]
    assert core.stats().num_used_blocks == 0
    if "num_blocks" in limits:
        assert core.stats().num_preemptions > 0


def test_inputs_and_answers_have_positions_of_their_own(case: Case) -> None:
    inputs = (case.inputs["a"] * 2)[:64]
    with engine(case.folder) as loaded:
        limits = loaded.limits
        assert (limits.max_input_tokens, limits.max_answer_tokens) == (64, 63)
        assert limits.max_total_tokens == 128
        assert [len(ids) for ids in answers(loaded, [inputs], 63)] == [63]


def test_more_input_than_positions_is_refused(case: Case) -> None:
    with (
        pytest.raises(ConfigError, match="max_input_tokens is 65; the encoder has 64 positions"),
        engine(case.folder, max_input_tokens=65),
    ):
        pass


def test_source_and_target_may_have_words_of_their_own(tmp_path: Path) -> None:
    reference = write_bart("marian", tmp_path, **TWO_VOCABULARIES)
    inputs = [VOCAB + 19, 5, VOCAB, 6]
    runner = _paged(tmp_path)
    runner.encode({"a": inputs})
    out = runner.step({"a": [START, 9]})["a"]
    assert _apart(out, scores(reference, inputs, [START, 9])) <= 1e-4
    with engine(tmp_path) as loaded:
        assert (loaded.limits.input_vocab_size, loaded.limits.vocab_size) == (VOCAB + 20, VOCAB)


def test_a_file_may_have_marians_positions(tmp_path: Path) -> None:
    reference = write_bart("marian", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, stack in (("encoder", reference.model.encoder), ("decoder", reference.model.decoder)):
        table = stack.embed_positions.weight.data.mul_(2)
        tensors[f"model.{name}.embed_positions.weight"] = table.clone()
    save_file(tensors, tmp_path / "model.safetensors")
    runner = _paged(tmp_path)
    runner.encode({"a": [5, 6, 7]})
    out = runner.step({"a": [START, 9]})["a"]
    assert _apart(out, scores(reference, [5, 6, 7], [START, 9])) <= 1e-4


@pytest.mark.parametrize("bias", [torch.ones(VOCAB), torch.ones(1, 3), torch.ones(1, VOCAB).int()])
def test_a_damaged_bias_of_the_words_is_refused(bias: Tensor, tmp_path: Path) -> None:
    write_bart("bart", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "final_logits_bias": bias}, tmp_path / "model.safetensors")
    with pytest.raises(WeightError, match="'final_logits_bias' is .*; expected floating point"):
        load_decoder(Checkpoint.open(tmp_path), LoadOptions())


def test_without_a_bias_of_the_words_there_is_none(tmp_path: Path) -> None:
    reference = write_bart("bart", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["final_logits_bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    reference.final_logits_bias.zero_()
    runner = _paged(tmp_path)
    runner.encode({"a": [5, 6, 7]})
    out = runner.step({"a": [START, 9]})["a"]
    assert _apart(out, scores(reference, [5, 6, 7], [START, 9])) <= 1e-4


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("bart", {"normalize_before": True}),
        ("mbart", {"add_final_layer_norm": False}),
        ("mbart", {"static_position_embeddings": True}),
        ("m2m100", {"tie_word_embeddings": False}),
        ("bart", {"is_encoder_decoder": False}),
    ],
)
def test_other_layouts_are_refused_by_name(kind: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        Config.from_hf({**CONFIGS[kind], **changes})


def test_what_the_files_force_and_ask_for(tmp_path: Path) -> None:
    write_summarizer(tmp_path)
    found = read_model(tmp_path)
    assert (found.runs_on, found.forced_bos_token_id) == ("native", FIRST)
    notes = "\n".join(decide(tmp_path, Settings(model_id=str(tmp_path))).notes)
    assert "searched for, as its files say, with num_beams 4, forced_eos_token_id 2" in notes
    notes = "\n".join(decide(tmp_path, Settings(model_id=str(tmp_path), max_beams=3)).notes)
    assert "ask for a search with num_beams 4; max_beams and max_batch_size allow 3" in notes
    for settings, search in (
        ({}, {"num_beams": 4, "forced_eos_token_id": 2}), ({"max_beams": 3}, {}),
        ({"max_batch_size": 3}, {}),
    ):  # fmt: skip
        with engine(tmp_path, **settings) as loaded:
            assert loaded.limits.forced_bos_token_id == FIRST
            assert search.items() <= loaded.limits.search.items()
            assert bool(loaded.limits.search) == bool(search)

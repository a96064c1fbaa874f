"""Models that only transformers knows, in our engine: batched, in chunks, preempted, shared."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from driving import Collector, load, make_core, run
from engines import engine
from fallbacks import without_files
from tiny.checkpoint import enliven

from atoll.engine.request import Request, SamplingOptions
from atoll.errors import UnsupportedModel
from atoll.models.registry import Checkpoint, load_decoder
from atoll.weights.load import LoadOptions

VOCAB, COUNT = 300, 8


@pytest.fixture(autouse=True, scope="module")
def fallback() -> Iterator[None]:
    """Also where one of these families has a file of its own by now."""
    with without_files("gpt2", "qwen2", "mamba", "bart"):
        yield


def _gpt2() -> Any:
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    )


def _qwen2() -> Any:
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    ))  # fmt: skip


def _mamba() -> Any:
    return hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=4)
    )


def _bart() -> Any:
    return hf.BartForConditionalGeneration(hf.BartConfig(
        vocab_size=VOCAB, d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=48,
        decoder_ffn_dim=48, encoder_attention_heads=4, decoder_attention_heads=4,
        max_position_embeddings=128, decoder_start_token_id=2, forced_eos_token_id=None,
    ))  # fmt: skip


@pytest.fixture(scope="module", params=[_gpt2, _qwen2, _mamba, _bart], ids=lambda f: f.__name__[1:])
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any]:
    """transformers' model, and it behind our interface."""
    build: Callable[[], Any] = request.param
    folder = tmp_path_factory.mktemp("checkpoint")
    reference = build().eval()
    enliven(reference)
    reference.save_pretrained(folder)
    return reference, load(folder)


def _inputs() -> list[list[int]]:
    generator = torch.Generator().manual_seed(4)
    first = torch.randint(3, VOCAB, (19,), generator=generator).tolist()
    other = torch.randint(3, VOCAB, (7,), generator=generator).tolist()
    return [first, other, first[:9] + other]


@torch.inference_mode()
def _expected(reference: Any, ids: Sequence[int]) -> list[int]:
    answer: list[int] = []
    for _ in range(COUNT):
        if reference.config.is_encoder_decoder:
            out = reference(
                input_ids=torch.tensor([list(ids)]), decoder_input_ids=torch.tensor([[2, *answer]])
            )
        else:
            out = reference(torch.tensor([[*ids, *answer]]), use_cache=False)
        answer.append(int(out.logits[0, -1].argmax()))
    return answer


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({}, id="plenty"),
        pytest.param({"num_blocks": 13}, id="preemption"),
        pytest.param({"max_batch_prefill_tokens": 4}, id="chunks"),
    ],
)
def test_greedy(models: tuple[Any, Any], limits: dict[str, Any]) -> None:
    reference, model = models
    core = make_core(model, vocab_size=VOCAB, **limits)
    start = model.config.decoder_start_token_id
    sinks = []
    for i, ids in enumerate(_inputs()):
        prompt, encoder = (tuple(ids), ()) if start is None else ((start,), tuple(ids))
        sinks.append(Collector())
        options = SamplingOptions(max_new_tokens=COUNT)
        core.add(Request(f"r{i}", prompt, options, sinks[-1], encoder_ids=encoder))
    run(core)
    assert [s.error for s in sinks] == [None] * 3
    assert [s.ids for s in sinks] == [_expected(reference, ids) for ids in _inputs()]
    assert core.stats().num_used_blocks == 0


@torch.inference_mode()
def test_beams(models: tuple[Any, Any]) -> None:
    """Several beams continue a text whose cache only one of them can have."""
    reference, model = models
    core, start = make_core(model, vocab_size=VOCAB), model.config.decoder_start_token_id
    ids = _inputs()[1]
    prompt, encoder = (tuple(ids), ()) if start is None else ((start,), tuple(ids))
    sinks = [Collector() for _ in range(3)]
    options = SamplingOptions(max_new_tokens=COUNT, num_beams=3)
    made = Request("r", prompt, options, sinks[0], encoder_ids=encoder, other_sinks=(*sinks[1:],))
    core.add(made)
    run(core)
    expected = reference.generate(
        torch.tensor([ids]), num_beams=3, num_return_sequences=3, max_new_tokens=COUNT,
        do_sample=False, eos_token_id=None, pad_token_id=0, use_cache=False,
    )  # fmt: skip
    assert [s.ids for s in sinks] == expected[:, len(prompt) :].tolist()


def test_forgotten_caches_are_computed_again(models: tuple[Any, Any]) -> None:
    reference, model = models
    model._max_cached = 0
    core = make_core(model, vocab_size=VOCAB)
    start = model.config.decoder_start_token_id
    sinks = [Collector(), Collector()]
    for i, ids in enumerate(_inputs()[:2]):
        prompt, encoder = (tuple(ids), ()) if start is None else ((start,), tuple(ids))
        options = SamplingOptions(max_new_tokens=COUNT)
        core.add(Request(f"r{i}", prompt, options, sinks[i], encoder_ids=encoder))
    run(core)
    assert [s.ids for s in sinks] == [_expected(reference, ids) for ids in _inputs()[:2]]
    assert len(model._caches) <= 1


def test_ids_survive_a_bfloat16_cache(tmp_path: Path) -> None:
    reference = _gpt2().eval()
    enliven(reference)
    reference.save_pretrained(tmp_path)
    core = make_core(load(tmp_path), vocab_size=VOCAB, dtype=torch.bfloat16)
    sink = Collector()
    core.add(Request("r", tuple(_inputs()[0]), SamplingOptions(max_new_tokens=COUNT), sink))
    run(core)
    assert sink.ids == _expected(reference, _inputs()[0])


def test_it_says_that_it_is_best_effort(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _gpt2().save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING), engine(tmp_path):
        pass
    assert "transformers' GPT2LMHeadModel runs it, best effort" in caplog.text


def test_what_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(UnsupportedModel, match="no-such-model"):
        load_decoder(Checkpoint.open(tmp_path), LoadOptions())


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise SystemExit('this file was run')")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel):
        load_decoder(Checkpoint.open(tmp_path), LoadOptions())


def test_one_gpu_holds_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``device_map="auto"`` spread a model over all GPUs, and what was left over went to the host;
    a device setting of cuda:1 was not heard.
    """
    hf.GPT2Config(n_embd=16, n_head=2, n_layer=1, vocab_size=32).save_pretrained(tmp_path)
    hf.GPT2LMHeadModel(hf.GPT2Config.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    given: dict[str, Any] = {}

    def stop(*_: Any, **options: Any) -> Any:
        given.update(options)
        raise RuntimeError("seen")

    monkeypatch.setattr(hf.AutoModelForCausalLM, "from_pretrained", stop)
    device = torch.device("cuda", 1)
    with pytest.raises(UnsupportedModel, match="seen"):
        load_decoder(Checkpoint.open(tmp_path), LoadOptions(torch.float16, device))
    assert given["device_map"] == {"": device}

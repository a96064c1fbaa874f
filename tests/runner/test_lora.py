"""LoRA adapters against peft, alone and several in one batch, for plain and for fused layouts."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from adapters import save_adapter
from driving import VOCAB, generate, load, make_core, reference_greedy, request, run, save_llama
from safetensors.torch import load_file, save_file
from tiny.checkpoint import enliven, write
from tiny.decoders import DECODERS as DECODER_VARIANTS

from atoll.errors import ConfigError, ValidationError, WeightError
from atoll.models.families import DECODERS
from atoll.models.registry import Checkpoint, architecture
from atoll.runner.lora import attach_adapters

COUNT = 20
PROMPTS = [[5, 6, 7], [9] * 12, [11, 3, 50, 2, 40, 41], [70]]


def neox(folder: Path) -> Any:
    """Fused, interleaved query-key-value rows."""
    config = hf.GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=256,
    )  # fmt: skip
    model = hf.GPTNeoXForCausalLM(config).eval()
    enliven(model)
    model.save_pretrained(folder)
    return model


LAYOUTS: dict[str, tuple[Callable[[Path], Any], list[str], list[str]]] = {
    "llama": (
        save_llama, ["q_proj", "v_proj"], ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"]
    ),
    "neox": (neox, ["query_key_value"], ["query_key_value", "dense_h_to_4h", "dense_4h_to_h"]),
}  # fmt: skip


@pytest.fixture(scope="module", params=LAYOUTS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(our model with two adapters, the references by adapter)."""
    build, first, second = LAYOUTS[request.param]
    root: Path = tmp_path_factory.mktemp("lora")
    references = {None: build(root / "base")}
    references["a"] = save_adapter(root / "base", root / "a", 1, first, r=4, lora_alpha=8)
    references["b"] = save_adapter(
        root / "base", root / "b", 2, second, r=8, lora_alpha=4, use_rslora=True,
        rank_pattern={second[0]: 3}, alpha_pattern={second[0]: 6},
    )  # fmt: skip
    model = load(root / "base")
    attach(model, root / "base", {"a": root / "a", "b": root / "b"})
    return model, references


def attach(model: Any, base: Path, adapters: dict[str, Path]) -> Any:
    table = architecture(Checkpoint.open(base).raw, DECODERS).WEIGHTS
    return attach_adapters(model, table, base, adapters, torch.float32)


def core_of(model: Any, slots: Any, **options: Any) -> Any:
    core = make_core(model, num_blocks=128, **options)
    core._runner.adapters = slots
    return core


@pytest.fixture(scope="module")
def slots(case: Any) -> Any:
    wrapped = next(m for m in case[0].modules() if type(m).__name__ == "AdaptedLinear")
    return wrapped._slots


@pytest.mark.parametrize("adapter", [None, "a", "b"])
def test_alone_equals_peft(case: Any, slots: Any, adapter: str | None) -> None:
    model, references = case
    expected = [reference_greedy(references[adapter], p, COUNT) for p in PROMPTS]
    found = generate(core_of(model, slots), PROMPTS, max_new_tokens=COUNT, adapter_id=adapter)
    assert found == expected


def test_mixed_batch_equals_peft(case: Any, slots: Any) -> None:
    """All adapters and none in one batch, in chunks, with equal prompts: no prefix is shared."""
    model, references = case
    core = core_of(model, slots, max_batch_prefill_tokens=5)
    made = []
    for prompt in PROMPTS:
        for adapter in (None, "a", "b"):
            one = request(prompt, COUNT, adapter_id=adapter)
            core.add(one[0])
            made.append(one)
    run(core)
    answers = {(one.prompt_ids, one.adapter_id): sink.ids for one, sink in made}
    for (prompt, adapter), ids in answers.items():
        assert ids == reference_greedy(references[adapter], prompt, COUNT)
    assert answers[(9,) * 12, None] != answers[(9,) * 12, "a"] != answers[(9,) * 12, "b"]


@pytest.mark.parametrize(
    ("variant", "targets", "prefix"),
    [
        ("phi", ["q_proj", "dense", "fc1"], ""),
        ("bloom", ["query_key_value", "dense"], "transformer."),
        ("opt", ["q_proj", "fc2"], "model."),
        ("llama", ["k_proj", "down_proj"], "model."),
        ("qwen2", ["k_proj", "v_proj", "down_proj"], "model."),
        ("qwen3", ["q_proj", "o_proj", "up_proj"], "model."),
        ("phi3-window", ["qkv_proj", "gate_up_proj", "down_proj"], "model."),
        ("gpt2", ["c_attn", "c_fc"], "transformer."),
        ("gptj", ["q_proj", "k_proj", "fc_out"], "transformer."),
        ("granite", ["k_proj", "gate_proj"], "model."),
        ("olmo2", ["q_proj", "o_proj"], "model."),
        ("cohere2", ["q_proj", "v_proj", "down_proj"], "model."),
        ("glm4", ["k_proj", "gate_up_proj"], "model."),
        ("mistral3", r".*language_model.*\.(q|down)_proj", ""),
        ("gemma3-saved-again", r".*language_model.*\.(v|gate)_proj", ""),
        ("gemma4-text", ["q_proj", "k_proj", "v_proj", "down_proj"], "model."),
        (
            "gemma4-e2b",
            r".*language_model.*(\.[qk]_proj|per_layer_(input_gate|projection|model_projection))",
            "",
        ),
        ("gpt-oss", ["q_proj", "v_proj", "o_proj"], "model."),
        ("moonlight", ["q_proj", "kv_a_proj_with_mqa", "o_proj"], "model."),
        ("deepseek-v2", ["q_a_proj", "q_b_proj"], "model."),
        ("qwen3.5-text", ["q_proj", "in_proj_qkv", "out_proj", "down_proj"], "model."),
    ],
)
def test_names_in_the_file_may_be_shorter_than_the_adapters(
    variant: str, targets: list[str] | str, prefix: str, tmp_path: Path
) -> None:
    """The hub's BLOOM has no ``transformer.`` in its names, which peft's have: its adapters were
    refused. Phi's, whose layouts have a table each, failed whatever their names."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    write(next(v for v in DECODER_VARIANTS if v.name == variant), base)
    reference = save_adapter(base, adapter, 3, targets, r=4, lora_alpha=8)
    tensors = load_file(base / "model.safetensors")
    short = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    save_file(short, base / "model.safetensors")
    model = load(base)
    slots = attach(model, base, {"x": adapter})
    found = generate(core_of(model, slots), PROMPTS, max_new_tokens=COUNT, adapter_id="x")
    assert found == [reference_greedy(reference, prompt, COUNT) for prompt in PROMPTS]


@pytest.mark.parametrize(
    ("name", "pattern", "count"),
    [
        ("mixtral", r"experts\.\d\.w[12]\.", 2 * 5 * 2),
        ("qwen2-moe", r"(experts\.\d|shared_expert)\.(gate|down)_proj\.", 6 * 2),
    ],
)
def test_adapted_experts_in_a_mixed_batch(
    name: str, pattern: str, count: int, tmp_path: Path
) -> None:
    """An expert sees some of the batch's tokens: the adapter was applied to the wrong ones."""
    base, adapter, merged = (tmp_path / name for name in ("base", "adapter", "merged"))
    base.mkdir()
    variant = next(v for v in DECODER_VARIANTS if v.name == name)
    references = {None: write(variant, base).model}
    tensors = load_file(base / "model.safetensors")
    generator, pairs = torch.Generator().manual_seed(4), {}
    for tensor_name in [n for n in tensors if re.search(pattern, n)]:
        out_features, in_features = tensors[tensor_name].shape
        a = torch.randn(4, in_features, generator=generator) * 0.3
        b = torch.randn(out_features, 4, generator=generator) * 0.3
        tensors[tensor_name] += 2 * b @ a
        stem = f"base_model.model.{tensor_name.removesuffix('.weight')}"
        pairs |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
    assert len(pairs) == 2 * count
    adapter.mkdir()
    save_file(pairs, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    shutil.copytree(base, merged)
    save_file(tensors, merged / "model.safetensors")
    references["x"] = hf.AutoModelForCausalLM.from_pretrained(merged).eval()
    model = load(base)
    core = core_of(model, attach(model, base, {"x": adapter}))
    made = [request(p, 8, adapter_id=adapter_id) for p in PROMPTS for adapter_id in (None, "x")]
    for one, _ in made:
        core.add(one)
    run(core)
    for one, sink in made:
        expected = reference_greedy(references[one.adapter_id], one.prompt_ids, 8)
        assert sink.ids == expected, one.adapter_id


def test_buffered_steps_are_for_the_base_model(case: Any, slots: Any) -> None:
    """A step in which an adapter takes part is not replayed: its rows differ from step to step."""
    model, references = case
    core = core_of(model, slots)
    core._runner.buffer_decoding(8)
    for adapter in ("a", None, "b"):
        expected = [reference_greedy(references[adapter], p, COUNT) for p in PROMPTS]
        assert generate(core, PROMPTS, max_new_tokens=COUNT, adapter_id=adapter) == expected


def test_unknown_adapters_are_refused(slots: Any) -> None:
    with pytest.raises(ValidationError, match="adapter_id is 'c'; known: a, b"):
        slots.check("c")
    slots.check(None)


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    save_llama(tmp_path / "base")
    save_llama(tmp_path / "wide", hidden_size=128)
    save_llama(tmp_path / "deep", num_hidden_layers=3)
    for name, error in (("wide", "features"), ("deep", "cannot be adapted")):
        save_adapter(tmp_path / name, tmp_path / f"a-{name}", 1, ["q_proj"], r=2)
        with pytest.raises(WeightError, match=error):
            attach(load(tmp_path / "base"), tmp_path / "base", {"x": tmp_path / f"a-{name}"})
    save_adapter(tmp_path / "base", tmp_path / "dora", 1, ["q_proj"], r=2, use_dora=True)
    with pytest.raises(ConfigError, match="use_dora"):
        attach(load(tmp_path / "base"), tmp_path / "base", {"x": tmp_path / "dora"})

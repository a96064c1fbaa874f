"""Checkpoints as users have them, old, hand-made, incomplete: what they answer, or say."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from as_transformers import COUNT, Json, assert_as_transformers, edit, some_ids
from driving import load, reference_greedy, save_llama
from engines import answers, engine
from tiny import decoders, llamas, phis
from tiny.checkpoint import enliven
from tiny.paged import PagedRunner
from tiny.t5 import write_t5

from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.models.families import DECODERS
from atoll.models.registry import Checkpoint, architecture
from atoll.serving.engine_loader import load_engine

LLAMA, MHA = llamas._llama, lambda: llamas._llama(num_key_value_heads=4)

LINEAR = {"factor": 2.0}
NULLS = dict.fromkeys(("rope_scaling", "sliding_window", "head_dim", "pad_token_id", "rope_theta"))
BANDS = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
OLD_ROPE = ("rope_parameters",)
CONFIGS: Mapping[str, tuple[Callable[[], Any], tuple[str, ...], Json]] = {
    "no architectures": (LLAMA, ("architectures",), {}),
    "null architectures": (LLAMA, (), {"architectures": None}),
    "nulls": (LLAMA, (), NULLS),
    "null key-value heads": (MHA, (), {"num_key_value_heads": None}),
    "no key-value heads": (MHA, ("num_key_value_heads", "head_dim"), {}),
    "type": (LLAMA, OLD_ROPE, {"rope_theta": 5000, "rope_scaling": {"type": "linear", **LINEAR}}),
    "rope_type": (LLAMA, OLD_ROPE, {"rope_scaling": {"rope_type": "linear", "factor": 2}}),
    "both types": (
        LLAMA, OLD_ROPE, {"rope_scaling": {"rope_type": "linear", "type": "linear", **LINEAR}},
    ),
    "rope_parameters": (
        LLAMA, (), {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e3, **LINEAR}},
    ),
    "both formats": (
        LLAMA, (), {
            "rope_parameters": {"rope_type": "linear", "rope_theta": 5e3, "factor": 4.0},
            "rope_scaling": {"rope_type": "linear", **LINEAR},
        },
    ),
    "null rope_parameters": (
        LLAMA, (), {"rope_parameters": None, "rope_scaling": {"type": "linear", **LINEAR}},
    ),
    "llama3 without its length": (
        LLAMA, OLD_ROPE, {"rope_scaling": {"rope_type": "llama3", **BANDS}},
    ),
    "yarn without its length": (LLAMA, OLD_ROPE, {"rope_scaling": YARN}),
    "yarn with its length outside": (
        LLAMA, OLD_ROPE, {"rope_scaling": YARN, "original_max_position_embeddings": 16},
    ),
    "llama with another family's window": (LLAMA, (), {"sliding_window": 4}),
    "llama with a list of layers": (
        LLAMA, (), {"layer_types": ["full_attention"] * 2, "sliding_window": 4},
    ),
    "mistral without window": (lambda: llamas._mistral(None), (), {"sliding_window": None}),
    "mpt nulls": (
        decoders._mpt, (), {"attn_config": {"softmax_scale": None, "clip_qkv": None}},
    ),
    "mpt without attn_config": (decoders._mpt, ("attn_config",), {}),
    "falcon nulls": (
        decoders._falcon, (),
        dict.fromkeys(("num_kv_heads", "ffn_hidden_size", "num_ln_in_parallel_attn")),
    ),
    "phi nulls": (phis._phi, (), {"num_key_value_heads": None}),
    "starcoder nulls": (lambda: decoders._bigcode(n_inner=None), (), {"n_inner": None}),
    "neox without biases": (lambda: decoders._neox(attention_bias=False), (), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_config(name: str, tmp_path: Path) -> None:
    build, drop, changes = CONFIGS[name]
    model = build()
    enliven(model)
    model.save_pretrained(tmp_path)
    edit(tmp_path / "config.json", *drop, **changes)
    assert_as_transformers(tmp_path)


@pytest.mark.parametrize("build", [LLAMA, lambda: llamas._mistral(7)], ids=["llama", "mistral"])
def test_layers_of_two_kinds_are_refused(build: Callable[[], Any], tmp_path: Path) -> None:
    """The window was put on all of them."""
    build().save_pretrained(tmp_path)
    keys = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 7}
    edit(tmp_path / "config.json", **keys)
    found = Checkpoint.open(tmp_path).raw
    with pytest.raises(ConfigError, match="layer_types has .*sliding_attention"):
        architecture(found, DECODERS).Config.from_hf(found)


@pytest.mark.parametrize("kind", [
    "mistral", "mixtral", "t5", "mt5", "llama", "gpt_neox", "phi", "gpt_oss",
])  # fmt: skip
def test_defaults_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    """A Mistral config without ``sliding_window`` was served without a window."""
    full = hf.AutoConfig.for_model(kind).to_dict()
    sizes = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size",
             "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads",
             "rope_parameters")  # fmt: skip
    raw = {key: full[key] for key in sizes if key in full}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **raw}))
    resolved = {**hf.AutoConfig.from_pretrained(tmp_path).to_dict(), "model_type": kind}
    found = Checkpoint.open(tmp_path).raw
    read = architecture(found, DECODERS).Config.from_hf
    assert dataclasses.asdict(read(found)) == dataclasses.asdict(read(resolved))


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
@pytest.mark.parametrize("value", ["float16", "bfloat16", None])
def test_dtype_of_the_config_is_not_a_cpus(key: str, value: str | None, tmp_path: Path) -> None:
    save_llama(tmp_path)
    edit(tmp_path / "config.json", "dtype", **({key: value} if value else {}))
    with engine(tmp_path, dtype="default") as loaded:
        assert loaded.facts["dtype"] == "float32"


_OLMO3 = {"model_type": "olmo3", "architectures": ["Olmo3ForCausalLM"], "sliding_window": 8}


@pytest.mark.parametrize(
    ("drop", "changes", "message"),
    [
        ("hidden_size", {}, "hidden_size"),
        ("", {"num_attention_heads": None}, "num_attention_heads"),
        ("", {"rope_scaling": {"type": "linear"}}, "'linear' needs factor"),
        ("", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ("rope_parameters", {**_OLMO3, "rope_theta": 1e4}, "rope_theta is 10000; versions of"),
        (
            "rope_parameters", {**_OLMO3, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling has type .linear., which transformers ignores for this family",
        ),
    ],
)  # fmt: skip
def test_what_config_lacks_is_named(drop: str, changes: Json, message: str, tmp_path: Path) -> None:
    save_llama(tmp_path)
    edit(tmp_path / "config.json", drop, **changes)
    with pytest.raises(ConfigError, match=message):
        load_engine(Settings(model_id=str(tmp_path)), tmp_path)


def test_no_architectures_in_the_engine(tmp_path: Path) -> None:
    reference = save_llama(tmp_path)
    edit(tmp_path / "config.json", "architectures", **NULLS)
    ids = some_ids(40)
    prompts = [ids[:19], ids[19:30], ids[30:]]
    expected = [reference_greedy(reference, prompt, COUNT) for prompt in prompts]
    with engine(tmp_path) as loaded:
        assert answers(loaded, prompts, COUNT) == expected
        assert answers(loaded, prompts[:1], COUNT) == expected[:1]


@pytest.mark.parametrize("start", [None, 7])
def test_generation_config_gives_the_first_token_of_an_answer(
    start: int | None, tmp_path: Path
) -> None:
    """The token was looked for in config.json only."""
    write_t5("t5", tmp_path)
    edit(tmp_path / "config.json", "decoder_start_token_id")
    generation = {"decoder_start_token_id": start, "temperature": 0.2, "eos_token_id": None}
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    reference = hf.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    ids = some_ids(12)
    first = {"decoder_start_token_id": 0} if start is None else {}
    expected = reference.generate(
        torch.tensor([ids]), max_new_tokens=COUNT, do_sample=False, eos_token_id=None, **first
    )
    with engine(tmp_path) as loaded:
        assert answers(loaded, [ids], COUNT) == [expected[0, 1:].tolist()]


PLAIN = (
    "llama-biases", "mistral-window", "mixtral", "bloom", "opt", "gpt-neox", "starcoder",
    "falcon-40b", "mpt", "phi",
)  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_as_transformers_5_may_save_it(name: str, tmp_path: Path) -> None:
    """``save_original_format=False`` gives tensors the names that transformers has inside: the head
    of GPT-NeoX was refused under that of other families."""
    variant = next(v for v in decoders.DECODERS if v.name == name)
    model = variant.build().eval()
    enliven(model)
    model.save_pretrained(tmp_path, save_original_format=False)
    ids = some_ids(9)
    with torch.inference_mode(), variant.around():
        expected = model(torch.tensor([ids]), use_cache=False).logits[0]
    ours = PagedRunner(load(tmp_path)).step({"a": ids})["a"]
    assert float((ours - expected).abs().max()) <= 1e-4 * max(1.0, float(expected.std()))


def test_mpt_has_its_epsilon_under_either_name(tmp_path: Path) -> None:
    """llm-foundry's own ``norm_eps`` was left out."""
    model = decoders._mpt()
    enliven(model)
    model.save_pretrained(tmp_path)
    edit(tmp_path / "config.json", layer_norm_epsilon=0.05)
    assert_as_transformers(tmp_path)
    ids, runner = some_ids(9), PagedRunner(load(tmp_path))
    expected = runner.step({"a": ids})["a"]
    edit(tmp_path / "config.json", "layer_norm_epsilon", norm_eps=0.05)
    assert torch.equal(PagedRunner(load(tmp_path)).step({"a": ids})["a"], expected)


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("attn_config", "qk_gn", True),
        ("attn_config", "attn_logit_softcapping", 30.0),
        ("attn_config", "reuse_kv_layer_idx", -1),
        ("ffn_config", "ffn_act_fn", {"name": "silu"}),
        ("ffn_config", "ffn_act_fn", {"name": "gelu", "approximate": "tanh"}),
        ("", "final_logit_softcapping", 30.0),
        ("", "block_overrides", {"order": [{"name": "default"}]}),
    ],
)
def test_mpt_of_later_versions_is_refused(place: str, key: str, value: Any, tmp_path: Path) -> None:
    """Keys that change the numbers were left out."""
    decoders._mpt().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    changed = {key: value}
    if place:
        changed = {place: {**(json.loads(path.read_text()).get(place) or {}), key: value}}
    edit(path, **changed)
    with pytest.raises(ConfigError, match=key):
        load(tmp_path)

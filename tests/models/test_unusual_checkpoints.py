"""Checkpoints as users have them, old, hand-made, incomplete: what they answer, or say."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from driving import Collector, load, save_llama
from tiny import decoders
from tiny.checkpoint import enliven
from tiny.decoders import VOCAB
from tiny.paged import PagedRunner
from tiny.t5 import write_t5

from atoll.config import Settings
from atoll.engine.loader import LoadedEngine, load_engine
from atoll.engine.request import Request, SamplingOptions
from atoll.errors import ConfigError
from atoll.models.registry import DECODERS, Checkpoint, architecture

COUNT = 16
Json = dict[str, Any]


@contextmanager
def engine(folder: Path, **settings: Any) -> Iterator[LoadedEngine]:
    """A started engine with a cache of a thousand tokens."""
    limits = {"max_batch_total_tokens": 1024, "num_threads": 1, "dtype": "float32", **settings}
    loaded = load_engine(Settings(model_id=str(folder), **limits), folder)
    loaded.engine.start()
    try:
        yield loaded
    finally:
        loaded.engine.stop()


def answers(folder: Path, prompts: Sequence[Sequence[int]], **settings: Any) -> list[list[int]]:
    """Greedy answers of all prompts at once."""
    with engine(folder, **settings) as loaded:
        sinks: list[Collector] = []
        start = loaded.limits.decoder_start_token_id
        for i, ids in enumerate(prompts):
            prompt, encoder = (tuple(ids), ()) if start is None else ((start,), tuple(ids))
            sinks.append(Collector())
            options = SamplingOptions(max_new_tokens=COUNT)
            loaded.engine.submit(Request(f"r{i}", prompt, options, sinks[-1], encoder_ids=encoder))
        assert all(sink.ended.wait(60) for sink in sinks)
    assert [sink.error for sink in sinks] == [None] * len(sinks)
    return [sink.ids for sink in sinks]


def some_ids(count: int) -> list[int]:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(3, VOCAB, (count,), generator=generator).tolist()


def edit(path: Path, *drop: str, **changes: Any) -> None:
    """Changes a JSON file: keys that go, and keys with new values."""
    found = json.loads(path.read_text())
    kept = {key: value for key, value in {**found, **changes}.items() if key not in drop}
    path.write_text(json.dumps(kept))


@torch.inference_mode()
def assert_as_transformers(folder: Path) -> None:
    """Our logits are those of transformers, which reads the same folder."""
    ids = some_ids(40)
    reference = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = reference(torch.tensor([ids]), use_cache=False).logits[0]
    ours = PagedRunner(load(folder)).step({"a": ids})["a"]
    limit = 2e-5 * max(1.0, float(expected.std()))
    assert float((ours - expected).abs().max()) <= limit


LLAMA, MHA = decoders._llama, lambda: decoders._llama(num_key_value_heads=4)
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
    "mistral without window": (lambda: decoders._mistral(None), (), {"sliding_window": None}),
    "mpt nulls": (
        decoders._mpt, (), {"attn_config": {"softmax_scale": None, "clip_qkv": None}},
    ),
    "mpt without attn_config": (decoders._mpt, ("attn_config",), {}),
    "falcon nulls": (
        decoders._falcon, (),
        dict.fromkeys(("num_kv_heads", "ffn_hidden_size", "num_ln_in_parallel_attn")),
    ),
    "phi nulls": (decoders._phi, (), {"num_key_value_heads": None}),
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


@pytest.mark.parametrize("kind", ["mistral", "mixtral", "t5", "mt5", "llama", "gpt_neox", "phi"])
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


@pytest.mark.parametrize(
    ("drop", "changes", "message"),
    [
        ("hidden_size", {}, "hidden_size"),
        ("", {"num_attention_heads": None}, "num_attention_heads"),
        ("", {"rope_scaling": {"type": "linear"}}, "'linear' needs factor"),
        ("", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
    ],
)
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
    expected = [list(reference_answer(reference, prompt)) for prompt in prompts]
    assert answers(tmp_path, prompts) == expected
    assert answers(tmp_path, prompts[:1]) == expected[:1]


@torch.inference_mode()
def reference_answer(reference: Any, prompt: Sequence[int]) -> list[int]:
    """transformers' best next tokens, computed anew for each."""
    ids = list(prompt)
    for _ in range(COUNT):
        ids.append(int(reference(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


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
    assert answers(tmp_path, [ids]) == [expected[0, 1:].tolist()]

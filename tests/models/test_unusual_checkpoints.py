"""Checkpoints as users have them, old, hand-made, incomplete: what they answer, or say."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from driving import load, reference_greedy, save_llama
from engines import answers, engine
from safetensors.torch import load_file, save_file
from tiny import decoders
from tiny.checkpoint import Tensors, enliven
from tiny.decoders import VOCAB
from tiny.paged import PagedRunner
from tiny.t5 import write_t5

from atoll.config import Settings
from atoll.errors import ConfigError, WeightError
from atoll.models.families import DECODERS
from atoll.models.registry import Checkpoint, architecture
from atoll.serving.engine_loader import load_engine
from atoll.weights.reader import CheckpointReader

COUNT = 16
Json = dict[str, Any]


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
    "llama with another family's window": (LLAMA, (), {"sliding_window": 4}),
    "llama with a list of layers": (
        LLAMA, (), {"layer_types": ["full_attention"] * 2, "sliding_window": 4},
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


@pytest.mark.parametrize("build", [LLAMA, lambda: decoders._mistral(7)], ids=["llama", "mistral"])
def test_layers_of_two_kinds_are_refused(build: Callable[[], Any], tmp_path: Path) -> None:
    """The window was put on all of them."""
    build().save_pretrained(tmp_path)
    keys = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 7}
    edit(tmp_path / "config.json", **keys)
    found = Checkpoint.open(tmp_path).raw
    with pytest.raises(ConfigError, match="layer_types has .*sliding_attention"):
        architecture(found, DECODERS).Config.from_hf(found)


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


def _shards(suffix: str, with_index: bool = True) -> Callable[[Path, Tensors], None]:
    """Writes the tensors as two files."""
    stem = {"bin": "pytorch_model", "safetensors": "model"}[suffix]

    def write(folder: Path, tensors: Tensors) -> None:
        names, where = sorted(tensors), {}
        for i, part in enumerate((names[:9], names[9:]), 1):
            file = f"{stem}-{i:05d}-of-00002.{suffix}"
            save = torch.save if suffix == "bin" else save_file
            save({name: tensors[name] for name in part}, folder / file)
            where.update(dict.fromkeys(part, file))
        if with_index:
            index = json.dumps({"metadata": {}, "weight_map": where})
            (folder / f"{stem}.{suffix}.index.json").write_text(index)

    return write


def _one(name: str, dtype: torch.dtype = torch.float32, changes: Json | None = None) -> Any:
    """Writes the tensors as one file, in a dtype, with more of them or (None) without some."""

    def write(folder: Path, tensors: Tensors) -> None:
        found = {**tensors, **(changes or {})}
        kept = {key: t.to(dtype) for key, t in found.items() if t is not None}
        save = save_file if name.endswith("safetensors") else torch.save
        save(kept, folder / name)

    return write


SAFE, BIN = "model.safetensors", "pytorch_model.bin"
HEAD = torch.randn(VOCAB, 64, generator=torch.Generator().manual_seed(3)) * 0.3
HEADLESS = _one(SAFE, changes={"lm_head.weight": None})
TIED = {"tie_word_embeddings": True}
WEIGHTS: Mapping[str, tuple[Callable[[Path, Tensors], None], Json]] = {
    "bin": (_one(BIN), {}),
    "bin shards": (_shards("bin"), {}),
    "shards": (_shards("safetensors"), {}),
    "float16": (_one(SAFE, torch.float16), {}),
    "bfloat16": (_one(SAFE, torch.bfloat16), {}),
    "float16 bin": (_one(BIN, torch.float16), {}),
    "float64": (_one(SAFE, torch.float64), {}),
    "extra tensor": (_one(SAFE, changes={"some.other": torch.ones(3)}), {}),
    "tied, head absent": (HEADLESS, TIED),
    "tied, another head": (_one(SAFE, changes={"lm_head.weight": HEAD}), TIED),
}


def _rewrite(folder: Path, write: Callable[[Path, Tensors], None], config: Json) -> None:
    save_llama(folder, **config)
    tensors = load_file(folder / SAFE)
    (folder / SAFE).unlink()
    write(folder, tensors)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name: str, tmp_path: Path) -> None:
    _rewrite(tmp_path, *WEIGHTS[name])
    assert_as_transformers(tmp_path)


def test_shards_without_an_index(tmp_path: Path) -> None:
    _rewrite(tmp_path, _shards("safetensors", with_index=False), {})
    reader = CheckpointReader(tmp_path)
    assert len(reader.names()) == 21
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(WeightError, match="model-00001-of-00002.safetensors missing"):
        load(tmp_path)


def _damaged(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path, Tensors], None]:
    def write(folder: Path, tensors: Tensors) -> None:
        files = _shards("safetensors") if "-of-" in name else _one(name)
        files(folder, tensors)
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return write


def _adapter(folder: Path, tensors: Tensors) -> None:
    save_file({"base_model.model.a.lora_A.weight": HEAD}, folder / "adapter_model.safetensors")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
SECOND = "model-00002-of-00002.safetensors"
BROKEN = {
    "half a file": (_damaged(SAFE, lambda b: b[: len(b) // 2]), f"{SAFE}: .* fetch it again"),
    "half a shard": (_damaged(SECOND, lambda b: b[:-4]), f"{SECOND}: .* fetch it again"),
    "half a bin": (_damaged(BIN, lambda b: b[: len(b) // 2]), f"{BIN}: .* fetch it again"),
    "empty": (_damaged(SAFE, lambda b: b""), f"{SAFE}: .* 0 bytes"),
    "pointer": (_damaged(SAFE, lambda b: POINTER), f"{SAFE}: .* git lfs pull"),
    "untied, head absent": (HEADLESS, ": lm_head.weight is missing"),
    "adapter": (_adapter, "lora_adapters"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_weights_are_named(name: str, tmp_path: Path) -> None:
    write, message = BROKEN[name]
    _rewrite(tmp_path, write, {})
    with pytest.raises(WeightError, match=message):
        load_engine(Settings(model_id=str(tmp_path)), tmp_path)


@pytest.mark.parametrize("index", ["{", "{}", "[]", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_broken_index_is_named(index: str, tmp_path: Path) -> None:
    _rewrite(tmp_path, _shards("safetensors"), {})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(WeightError, match=r"model\.safetensors\.index\.json: is no index"):
        load(tmp_path)


def _index_with(folder: Path, name: str, file: Any) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][name] = file
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    "file", ["../x/model.safetensors", "/etc/passwd", "a/b.safetensors", 5, ""]
)
def test_an_index_reads_nothing_outside_the_folder(file: Any, tmp_path: Path) -> None:
    """The names of shards were joined to the folder as they came."""
    _rewrite(tmp_path, _shards("safetensors"), {})
    _index_with(tmp_path, "model.norm.weight", file)
    with pytest.raises(WeightError, match=r"index\.json: model\.norm\.weight is in"):
        load(tmp_path)


def test_a_tensor_that_the_index_names_and_its_file_lacks(tmp_path: Path) -> None:
    _rewrite(tmp_path, _shards("safetensors"), {})
    path = tmp_path / SECOND
    tensors = load_file(path)
    _index_with(tmp_path, "some.tied.copy", SECOND)
    load(tmp_path)
    del tensors["model.norm.weight"]
    save_file(tensors, path)
    with pytest.raises(WeightError, match=f"'model.norm.weight' is missing from {SECOND}"):
        load(tmp_path)


def test_a_tensor_in_two_shards_is_read_where_the_index_says(tmp_path: Path) -> None:
    """The last file won."""
    _rewrite(tmp_path, _shards("safetensors"), {})
    ids = some_ids(9)
    expected = PagedRunner(load(tmp_path)).step({"a": ids})["a"]
    first = load_file(tmp_path / "model-00001-of-00002.safetensors")
    name = sorted(first)[0]
    second = load_file(tmp_path / SECOND)
    save_file({**second, name: first[name] + 1}, tmp_path / SECOND)
    assert torch.equal(PagedRunner(load(tmp_path)).step({"a": ids})["a"], expected)


@pytest.mark.parametrize("value", [3, "text", [1.0], {"weight": 1}])
def test_what_is_no_tensor_in_a_bin_is_named(value: Any, tmp_path: Path) -> None:
    def write(folder: Path, tensors: Tensors) -> None:
        torch.save({**tensors, "model.norm.weight": value}, folder / BIN)

    _rewrite(tmp_path, write, {})
    with pytest.raises(WeightError, match="'model.norm.weight' is no tensor"):
        load(tmp_path)


def test_eight_bits_without_scales_are_refused(tmp_path: Path) -> None:
    def write(folder: Path, tensors: Tensors) -> None:
        small = torch.ones(64).to(torch.float8_e4m3fn)
        save_file({**tensors, "model.norm.weight": small}, folder / SAFE)

    _rewrite(tmp_path, write, {})
    with pytest.raises(WeightError, match="'model.norm.weight' is float8_e4m3fn"):
        load(tmp_path)


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

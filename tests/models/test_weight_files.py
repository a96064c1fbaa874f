"""Weight files as users have them: in shards, old, hand-made, damaged; read, or named."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from as_transformers import Json, assert_as_transformers, some_ids
from driving import load, save_llama
from safetensors.torch import load_file, save_file
from tiny.checkpoint import Tensors
from tiny.llamas import VOCAB
from tiny.paged import PagedRunner

from atoll.config import Settings
from atoll.errors import WeightError
from atoll.serving.engine_loader import load_engine
from atoll.weights.reader import CheckpointReader


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

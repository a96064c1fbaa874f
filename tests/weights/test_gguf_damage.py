"""Damaged GGUF files, and what they hold that is not known: errors that name it, no crash."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from tiny.checkpoint import write
from tiny.gguf_files import FAMILIES, VARIANTS, Written
from tiny.gguf_writing import add_vocabulary, finish, write_gguf

from atoll.errors import AtollError, ConfigError, UnsupportedModel, WeightError
from atoll.models.registry import Checkpoint, load_decoder
from atoll.weights.gguf.convert import prepare
from atoll.weights.gguf.sources import chosen, hub_file, models, together
from atoll.weights.load import LoadOptions

Change = Callable[[bytearray], bytearray]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    write(VARIANTS["llama"], folder)
    return folder


@pytest.fixture(scope="module")
def whole(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "whole.gguf"
    write_gguf(hub, path, FAMILIES["llama"], lambda name: "Q4_0")
    return path.read_bytes()


def _replaced(old: bytes, new: bytes) -> Change:
    def change(data: bytearray) -> bytearray:
        assert data.count(old) >= 1
        return bytearray(bytes(data).replace(old, new, 1))

    return change


def _tensor_kind(data: bytearray) -> bytearray:
    place = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 2 * 8
    data[place : place + 4] = struct.pack("<I", 4242)
    return data


def _tensor_place(data: bytearray) -> bytearray:
    place = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 2 * 8 + 4
    data[place : place + 8] = struct.pack("<Q", 1 << 40)
    return data


def _array_length(data: bytearray) -> bytearray:
    place = data.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
    data[place : place + 8] = struct.pack("<Q", 1 << 60)
    return data


def _count(place: int) -> Change:
    def change(data: bytearray) -> bytearray:
        data[place : place + 8] = struct.pack("<Q", 1 << 60)
        return data

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: data[:0], "cannot be read as GGUF"),
        (lambda data: data[:3], "cannot be read as GGUF"),
        (lambda data: data[:100], "it has 100 bytes, and byte"),
        (lambda data: data[: len(data) // 2], r"bytes, and byte \d+ is needed"),
        (lambda data: data[:-40], r"bytes, and byte \d+ is needed"),
        (_replaced(b"GGUF", b"GGML"), "magic"),
        (lambda data: bytearray(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (_count(8), r"bytes, and byte \d+ is needed|valid"),
        (_count(16), r"bytes, and byte \d+ is needed|valid"),
        (_array_length, f"an array has {1 << 60} elements"),
        (_tensor_kind, "4242"),
        (_tensor_place, r"bytes, and byte \d+ is needed"),
        (_replaced(b"llama.block_count", b"llama.black_count"), "llama.black_count"),
        (_replaced(b"general.architecture", b"general.architectura"), "architecture' is missing"),
    ],
)
def test_damaged_files(change: Change, named: str, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(bytes(change(bytearray(whole))))
    with pytest.raises(AtollError, match=rf"bad\.gguf: .*({named})"):
        prepare(path, tmp_path)


def test_any_truncation_is_an_error(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    for end in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:end])
        with pytest.raises(WeightError, match=r"bad\.gguf"):
            prepare(path, tmp_path)


def _small(path: Path, **keys: float | str | list[int]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    numbers = {"block_count": 1, "context_length": 64, "embedding_length": 32,
               "feed_forward_length": 32, "attention.head_count": 2, **keys}  # fmt: skip
    for key, value in numbers.items():
        if isinstance(value, list):
            writer.add_array(f"llama.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"llama.{key}", value)
        else:
            writer.add_uint32(f"llama.{key}", int(value))
    add_vocabulary(writer)
    writer.add_tensor("token_embd.weight", np.zeros((96, 32), np.float32))
    finish(writer)
    return path


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"new_trick": 3}, "'llama.new_trick' .3. is not supported"),
        ({"attention.value_length": 8}, "value_length is 8"),
        ({"rope.dimension_count": 4, "attention.key_length": 16, "attention.value_length": 16},
         "rope.dimension_count is 4"),
        ({"attention.head_count": [2, 4]}, "head_count differs between layers"),
        ({"rope.scaling.type": "su"}, "rope.scaling.type is 'su'"),
        ({"rope.scaling.type": "yarn"}, "llama.rope.scaling.factor' is missing"),
        ({"attention.head_count": 0}, "head_count is 0"),
    ],
)  # fmt: skip
def test_metadata_that_is_not_known(
    keys: dict[str, float | str | list[int]], named: str, tmp_path: Path
) -> None:
    with pytest.raises(AtollError, match=named):
        prepare(_small(tmp_path / "x.gguf", **keys), tmp_path)


@pytest.mark.parametrize(
    ("keys", "scaling"),
    [
        ({"rope.scaling.factor": 4}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope.scale_linear": 2}, {"rope_type": "linear", "factor": 2.0}),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4}, None),
        ({"rope.scaling.factor": 0}, None),
    ],
)  # fmt: skip
def test_a_factor_of_positions_alone_is_linear(
    keys: dict[str, float | str | list[int]], scaling: object, tmp_path: Path
) -> None:
    prepare(_small(tmp_path / "x.gguf", **keys), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()).get("rope_scaling") == scaling


def test_tensors_that_are_not_known(hub: Path, tmp_path: Path) -> None:
    """One that no module asks for is another model; the index is about one file alone."""

    def more(config: object) -> dict[str, object]:
        import torch

        return {"blk.0.attn_q_norm.weight": torch.ones(16)}

    written = Written("llama", FAMILIES["llama"].keys, FAMILIES["llama"].change, more)  # type: ignore[arg-type]
    path, folder = tmp_path / "x.gguf", tmp_path / "folder"
    write_gguf(hub, path, written, lambda name: "F16")
    folder.mkdir()
    prepare(path, folder)
    with pytest.raises(WeightError, match="left over.*blk.0.attn_q_norm.weight"):
        load_decoder(Checkpoint.open(folder), LoadOptions())
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(WeightError, match=r"x\.gguf has changed since"):
        load_decoder(Checkpoint.open(folder), LoadOptions())
    path.unlink()
    with pytest.raises(WeightError, match=r"its tensors are in .*x\.gguf"):
        load_decoder(Checkpoint.open(folder), LoadOptions())


def test_which_file_is_meant() -> None:
    names = ["a-Q4_K.gguf", "a-Q4_K_M.gguf", "mmproj-a.gguf", "config.json",
             "big/a-Q8_0-00002-of-00002.gguf", "big/a-Q8_0-00001-of-00002.gguf"]  # fmt: skip
    assert models(names) == ["a-Q4_K.gguf", "a-Q4_K_M.gguf", "big/a-Q8_0-00001-of-00002.gguf"]
    assert chosen(names, "Q4_K", "it") == "a-Q4_K.gguf"
    assert chosen(names, "q4_k_m", "it") == "a-Q4_K_M.gguf"
    first = chosen(names, "Q8_0", "it")
    assert together(first, names) == sorted(names[-2:])
    for wanted in ("Q5_K", "a"):
        with pytest.raises(ConfigError, match=f"it has .*'{wanted}'; there are: a-Q4_K.gguf"):
            chosen(names, wanted, "it")
    assert hub_file("acme/a:Q4_K") == ("acme/a", "Q4_K")
    assert hub_file("acme/a/big/a.gguf") == ("acme/a", "big/a.gguf")
    assert [hub_file(name) for name in ("acme/a", "a.gguf", "/x/y.gguf", "./a/b/c.gguf")] == [
        None, None, None, None,
    ]  # fmt: skip


def test_other_kinds_of_files(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_type("adapter")
    finish(writer)
    with pytest.raises(UnsupportedModel, match="general.type is 'adapter'"):
        prepare(tmp_path / "lora.gguf", tmp_path)
    (tmp_path / "x-00001-of-00002.gguf").touch()
    with pytest.raises(WeightError, match="x-00002-of-00002.gguf of its series is missing"):
        prepare(tmp_path / "x-00001-of-00002.gguf", tmp_path)

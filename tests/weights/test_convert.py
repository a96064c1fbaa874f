"""``atoll convert``: what is written, what is refused, and that nothing is left half done."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from atoll.cli.app import app
from atoll.errors import ConfigError, WeightError
from atoll.weights.convert import convert
from atoll.weights.reader import CheckpointReader


def _tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(6, 4, generator=generator)
    return {
        "embed.weight": shared,
        "lm_head.weight": shared,
        "half.weight": torch.randn(3, 4, generator=generator).bfloat16(),
        "turned.weight": torch.randn(4, 5, generator=generator).t(),
        "position_ids": torch.arange(7),
        "odd.weight": torch.tensor([float("nan"), float("inf"), -0.0]),
    }


def _sharded(folder: Path) -> dict[str, Tensor]:
    tensors = _tensors()
    names = list(tensors)
    for i, part in enumerate((names[:3], names[3:]), start=1):
        torch.save({n: tensors[n] for n in part}, folder / f"pytorch_model-0000{i}-of-00002.bin")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    (folder / "config.json").write_text('{"model_type": "x"}')
    (folder / "merges.txt").write_text("a b")
    return tensors


def _assert_same(found: Tensor, expected: Tensor) -> None:
    """Bit for bit: NaN and the sign of zero included."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert torch.equal(found.view(torch.uint8), expected.contiguous().view(torch.uint8))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def test_sharded_bins(source: Path, tmp_path: Path) -> None:
    expected = _sharded(source)
    calls: list[tuple[int, int]] = []
    convert(source, tmp_path / "target", lambda done, total: calls.append((done, total)))
    target = tmp_path / "target"
    assert sorted(p.name for p in target.iterdir()) == [
        "config.json", "merges.txt", "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    ]  # fmt: skip
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(expected)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in expected.values())
    reader = CheckpointReader(target)
    for name, tensor in expected.items():
        _assert_same(reader.tensor(name), tensor)
    assert calls == [(1, 2), (2, 2)]


def test_one_bin_in_the_format_before_zip(source: Path, tmp_path: Path) -> None:
    tensors = {n: t.clone() for n, t in _tensors().items()}
    path = source / "pytorch_model.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    _assert_same(CheckpointReader(source).tensor("half.weight"), tensors["half.weight"])
    convert(source, tmp_path / "target")
    found = load_file(tmp_path / "target" / "model.safetensors")
    for name, tensor in tensors.items():
        _assert_same(found[name], tensor)


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('the pickle was run')",))


def test_code_in_a_pickle_is_refused_and_nothing_is_left(source: Path, tmp_path: Path) -> None:
    (source / "pytorch_model.bin").write_bytes(pickle.dumps({"x": _Code()}, protocol=2))
    with pytest.raises(WeightError, match="cannot be read"):
        convert(source, tmp_path / "target")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_what_is_refused_is_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no pytorch_model"):
        convert(source, tmp_path / "target")
    with pytest.raises(ConfigError, match="exists already"):
        convert(source, source)
    with pytest.raises(ConfigError, match="expected a folder"):
        convert(source / "x.txt", tmp_path / "target")
    torch.save({"epoch": 3}, source / "pytorch_model.bin")
    with pytest.raises(WeightError, match=r"\['epoch'\] are no tensors"):
        convert(source, tmp_path / "target")
    torch.save([torch.ones(2)], source / "pytorch_model.bin")
    with pytest.raises(WeightError, match="holds a list"):
        convert(source, tmp_path / "target")


def test_command(source: Path, tmp_path: Path) -> None:
    _sharded(source)
    result = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "target")])
    assert result.exit_code == 0, result.output
    assert "2 file(s) written" in result.output

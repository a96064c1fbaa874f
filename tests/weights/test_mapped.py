"""Tables that stay in files: same values, no copy in memory, and only where nobody writes."""

import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from atoll.layers import Embedding, LayerNorm
from atoll.weights import mapped
from atoll.weights.load import LoadOptions, load_weights
from atoll.weights.weight_map import WeightMap

ROWS, DIM = 10_000, 64
TABLE = WeightMap(anchor="emb", modules={"embed": "emb", "few": "few", "norm": "ln"})


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = None
        self.embed, self.few = Embedding(ROWS, DIM), Embedding(2, DIM)
        self.norm = LayerNorm(DIM, 1e-5)


def _save(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes = {
        "emb.weight": (ROWS, DIM),
        "few.weight": (2, DIM),
        "ln.weight": (DIM,),
        "ln.bias": (DIM,),
    }
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return tensors


def _load(folder: Path, dtype: torch.dtype = torch.float32) -> Tiny:
    with torch.device("meta"):
        model = Tiny()
    load_weights(model, TABLE, folder, LoadOptions(dtype=dtype))
    return model


def _resident_bytes(name: str) -> int:
    """Of all mappings of files whose names contain ``name``."""
    is_named, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split()[0].endswith(":"):
            is_named = name in line
        elif is_named and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A snapshot's folder: its file is a link to one that is named by its content."""
    (tmp_path / "blobs").mkdir()
    (folder := tmp_path / "snapshots" / "0").mkdir(parents=True)
    _save(tmp_path / "blobs")
    (tmp_path / "blobs" / "model.safetensors").rename(tmp_path / "blobs" / "abc")
    (folder / "model.safetensors").symlink_to(tmp_path / "blobs" / "abc")
    return folder


def test_a_table_of_the_hubs_cache_stays_in_its_file(hub: Path) -> None:
    model = _load(hub)
    assert mapped.is_mapped(model.embed.weight)
    assert _resident_bytes("blobs/abc") == 0
    assert torch.equal(model.embed(torch.tensor([ROWS - 1])), _saved(hub)["emb.weight"][ROWS - 1 :])
    assert 0 < _resident_bytes("blobs/abc") < model.embed.weight.nbytes
    # Small ones are copied.
    assert not any(mapped.is_mapped(w) for w in (model.few.weight, model.norm.weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_table_of_another_folder_is_in_a_file_without_a_name(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    expected = _save(tmp_path)["emb.weight"].to(dtype)
    model = _load(tmp_path, dtype)
    assert mapped.is_mapped(model.embed.weight)
    assert not mapped.is_mapped(model.few.weight)
    # Whoever replaces the file in place changes nothing, and a shortened one is no danger.
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(0)
    assert torch.equal(model.embed.weight, expected)
    assert not list(Path(tempfile.gettempdir()).glob("atoll-table-*"))


def test_temporary_files_in_memory_or_on_a_full_disk_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = torch.randn(ROWS, DIM)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/dev/shm")
    assert mapped.moved_to_file(table) is table
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert mapped.moved_to_file(table) is not table
    full = shutil.disk_usage(tmp_path)._replace(free=table.nbytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    assert mapped.moved_to_file(table) is table


def test_a_folder_that_cannot_be_written_to_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = torch.randn(ROWS, DIM)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "missing"))
    assert mapped.moved_to_file(table) is table
    assert "stays in memory" in caplog.text


def _saved(folder: Path) -> dict[str, torch.Tensor]:
    return _save(folder.parents[1])

"""Reads a checkpoint folder: names, shapes and tensors, mapped from the files.

Knows safetensors (single file or sharded by an index) and, where nothing else is there, ``.bin``
files through torch's weights-only unpickler. Does not know what the tensors mean.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from atoll.errors import WeightError

# Bytes read from a file before it is mapped anew, which gives the pages of what was read back:
# memory at load peaks near the size of the packed weights, not at twice that.
_REMAP_BYTES = 1 << 28


class CheckpointReader:
    """Tensors of a checkpoint folder by name, loaded one at a time.

    Raises:
        WeightError: no weight file, a shard is missing or unreadable.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._location: dict[str, _File] = {}
        for path in _weight_files(folder):
            file = _File(path)
            self._location.update({name: file for name in file.names})
        self.read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._location

    def names(self) -> list[str]:
        """Every tensor in the checkpoint."""
        return list(self._location)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._location[name].shape(name)

    def tensor(self, name: str, index: int | None = None) -> Tensor:
        """The tensor, or its slice ``index``, as stored (dtype of the file); marks it as read."""
        if name not in self._location:
            raise WeightError(f"{self.folder}: tensor {name!r} is missing")
        self.read.add(name)
        return self._location[name].tensor(name, index)


class _File:
    """One weight file. Its mapping lives as long as tensors that are views of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open = _open(path)
        self._num_bytes = 0
        self.names = list(self._open.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        if isinstance(self._open, dict):
            return tuple(self._open[name].shape)
        return tuple(self._open.get_slice(name).get_shape())

    def tensor(self, name: str, index: int | None) -> Tensor:
        found: Tensor
        if isinstance(self._open, dict):
            found = self._open[name]
            return found if index is None else found[index]
        if self._num_bytes > _REMAP_BYTES:
            self._open, self._num_bytes = _open(self._path), 0
        get = self._open.get_tensor
        found = get(name) if index is None else self._open.get_slice(name)[index]
        self._num_bytes += found.nbytes
        return found


def _weight_files(folder: Path) -> list[Path]:
    for stem in ("model.safetensors", "pytorch_model.bin"):
        # First: the index may be of another download, without its shards.
        if (folder / stem).exists():
            return [folder / stem]
        index = folder / f"{stem}.index.json"
        if index.exists():
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            missing = [s for s in shards if not (folder / s).exists()]
            if missing:
                raise WeightError(f"{folder}: {index.name} names {missing}, which are missing")
            return [folder / shard for shard in shards]
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        found = sorted(folder.glob(pattern))
        if found:
            return found
    raise WeightError(f"{folder}: no *.safetensors and no pytorch_model*.bin")


def load_bin(path: Path) -> dict[str, Any]:
    """The tensors of a ``.bin`` file, mapped where its format allows that; runs no code of it.

    Raises:
        WeightError: it cannot be read, or holds more than tensors.
    """
    try:
        found = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:
        raise WeightError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise WeightError(f"{path}: holds a {type(found).__name__}; expected tensors by name")
    return dict(found)


def _open(path: Path) -> Any:
    if path.suffix != ".safetensors":
        return load_bin(path)
    try:
        return safe_open(str(path), framework="pt")
    except Exception as error:
        raise WeightError(f"{path}: cannot be read: {error}") from error

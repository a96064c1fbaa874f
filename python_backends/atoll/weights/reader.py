"""Reads a checkpoint folder: names, shapes and tensors, mapped from the files.

Knows safetensors (single file or sharded by an index) and, where nothing else is there, ``.bin``
files through torch's weights-only unpickler. Does not know what the tensors mean.
"""

import json
import os
import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from atoll.errors import WeightError

# Bytes read from a file before it is mapped anew, which gives the pages of what was read back:
# memory at load peaks near the size of the packed weights, not at twice that.
_REMAP_BYTES = 1 << 28
_SHARD = re.compile(r"(.*-)\d{5}-of-(\d{5})(\..*)")
_FILES = ("model.safetensors", "pytorch_model.bin")
_POINTER = b"version https://git-lfs"
# Mistral's own format, whose tensors have other names; its repositories hold both.
_FOREIGN = "consolidated"


class CheckpointReader:
    """Tensors of a checkpoint folder by name, loaded one at a time.

    lost: tensors that an index names and the files lack -> the file that should have it.
    must_be_read: whether a tensor that nothing asks for means that the model is another one.

    Raises:
        WeightError: no weight file, a shard is missing or unreadable.
    """

    must_be_read = False

    def __init__(self, folder: Path, names: Sequence[str] = _FILES) -> None:
        """names: of the single file, or what an index is called after, the first that is there."""
        self.folder = folder
        self._location: dict[str, _File] = {}
        paths, index = _weight_files(folder, names)
        files = {path: _File(path) for path in paths}
        for path, file in files.items():
            # A tensor may be in two shards; the index says which one is meant.
            named = {name for name in file.names if index.get(name, path) == path}
            self._location.update({name: file for name in named})
        # Converters leave the names of repeated tensors in the index, so that only a tensor that is
        # needed is missing.
        self.lost = {n: path.name for n, path in index.items() if n not in self._location}
        self.read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._location

    @property
    def files(self) -> set[Path]:
        """Those that hold tensors."""
        return {file.path for file in self._location.values()}

    def names(self) -> list[str]:
        """Every tensor in the checkpoint."""
        return list(self._location)

    def stem(self, name: str) -> str:
        """How names of a module begin in the files."""
        return f"{name}."

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
        self.path = path
        self._open = _open(path)
        self._num_bytes = 0
        self.names = list(self._open.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        if isinstance(self._open, dict):
            found = self._open[name]
            if not isinstance(found, Tensor):
                kind = type(found).__name__
                raise WeightError(f"{self.path}: {name!r} is no tensor, but of the type {kind}")
            return tuple(found.shape)
        return tuple(self._open.get_slice(name).get_shape())

    def tensor(self, name: str, index: int | None) -> Tensor:
        found: Tensor
        if isinstance(self._open, dict):
            found = self._open[name]
            return found if index is None else found[index]
        if self._num_bytes > _REMAP_BYTES:
            self._open, self._num_bytes = _open(self.path), 0
        get = self._open.get_tensor
        found = get(name) if index is None else self._open.get_slice(name)[index]
        self._num_bytes += found.nbytes
        return found


def _weight_files(folder: Path, names: Sequence[str]) -> tuple[list[Path], dict[str, Path]]:
    """The files, and the one of each tensor where an index says it."""
    for stem in names:
        # First: the index may be of another download, without its shards.
        if (folder / stem).exists():
            return [folder / stem], {}
        index = folder / f"{stem}.index.json"
        if index.exists():
            named = _indexed(index)
            paths = _complete(folder, sorted(set(named.values())), f"which {index.name} names")
            return paths, {name: folder / file for name, file in named.items()}
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        there = (file.name for file in folder.glob(pattern))
        found = sorted(name for name in there if not name.startswith(_FOREIGN))
        if found:
            # Without an index the files' own names say how many there are.
            series = (_SHARD.fullmatch(name) for name in found)
            expected = {
                f"{m[1]}{i:05d}-of-{m[2]}{m[3]}"
                for m in series if m for i in range(1, int(m[2]) + 1)
            }  # fmt: skip
            return _complete(folder, sorted(expected.union(found)), "by the others' names"), {}
    foreign = next((file.name for file in folder.glob(f"{_FOREIGN}*")), None)
    hint = f"; {foreign} is in Mistral's own format, which is not supported" if foreign else ""
    raise WeightError(f"{folder}: no *.safetensors and no pytorch_model*.bin{hint}")


def _indexed(index: Path) -> dict[str, str]:
    """The file of each tensor, beside the index."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightError(f"{index}: is no index of weight files: {error}") from error
    named = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(named, dict) or not named:
        raise WeightError(f"{index}: is no index of weight files: there is no weight_map")
    for name, file in named.items():
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise WeightError(f"{index}: {name} is in {file!r}; expected the name of a file")
    return dict(named)


def _complete(folder: Path, names: list[str], source: str) -> list[Path]:
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise WeightError(f"{folder}: {', '.join(missing)} missing, {source}")
    return [folder / name for name in names]


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
        raise _unreadable(path, error) from error
    if not isinstance(found, dict):
        raise WeightError(f"{path}: holds a {type(found).__name__}; expected tensors by name")
    return dict(found)


def _open(path: Path) -> Any:
    if path.suffix != ".safetensors":
        return load_bin(path)
    try:
        return safe_open(str(path), framework="pt")
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> WeightError:
    """Says what to do: most such files are downloads that ended early."""
    code = re.search(r"GLOBAL \S+", str(error))
    if isinstance(error, pickle.UnpicklingError) and code:
        return WeightError(
            f"{path}: cannot be read without running code of it: it holds more than tensors "
            f"({code[0]})"
        )
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__).split(". ")[0]
    try:
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                reason = "it is a pointer of Git LFS, not the weights: run git lfs pull"
            else:
                size = file.seek(0, os.SEEK_END)
                reason += f"; its {size} bytes are incomplete or damaged: fetch it again"
    except OSError as failure:
        reason = str(failure)
    return WeightError(f"{path}: cannot be read: {reason}")

"""Reads tensors of GGUF files by the hub's names, as the hub has them.

The library's table finds GGUF's name of each; the rows, the sums and the shapes that llama.cpp's
converter has changed are changed back. Quantised tensors are dequantised when they are read, unless
``codes`` takes their blocks as they are.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atoll.errors import WeightError
from atoll.weights.gguf.architectures import ARCHITECTURES
from atoll.weights.gguf.file import Stored, blocks, bytes_of, dequantized
from atoll.weights.gguf.index import Index
from atoll.weights.gguf.rope import TENSORS
from atoll.weights.reader import CheckpointReader

_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(.+)")
_LAYER = re.compile(r"blk\.(\d+)\.")
# One family's names have it on the hub, and not in the library's table.
_PREFIX = "transformer."
# Of an embedder they are not needed.
_HEAD = ("output.weight", "output.bias")
_VIEWS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Place(NamedTuple):
    """Where a tensor of the hub is: GGUF's name, and which slice of a stack."""

    name: str
    expert: int | None


class GgufReader(CheckpointReader):
    """See ``CheckpointReader``. ``names``, ``read`` and ``kept`` are GGUF's names.

    kept: matrices whose blocks were taken as they are.
    """

    must_be_read = True

    def __init__(self, folder: Path) -> None:
        """Raises WeightError: the index is damaged, or files are not as it says."""
        import gguf

        self.folder, self.lost, self.read = folder, {}, set()
        self.kept: set[str] = set()
        self.index = Index.load(folder)
        self._row = ARCHITECTURES[self.index.architecture]
        kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
        kind = kinds[self.index.architecture]
        self._table = gguf.get_tensor_name_map(kind, self.index.num_layers)
        self._places: dict[str, Place | None] = {}

    @cached_property
    def _files(self) -> list[npt.NDArray[np.uint8]]:
        return [np.memmap(s.path, mode="r", dtype=np.uint8) for s in self.index.sources]

    def __contains__(self, name: str) -> bool:
        return self.place(name) is not None

    def names(self) -> list[str]:
        """Every tensor that has to be read."""
        return [n for n in self.index.tensors if n not in TENSORS and n not in _HEAD]

    def shape(self, name: str) -> tuple[int, ...]:
        """As on the hub."""
        place = self._require(name)
        shape = self.index.tensors[place.name].shape
        shape = shape if place.expert is None else shape[1:]
        if self.is_turned(name):
            shape = shape[::-1]
        return (1, *shape) if _is_squeezed(place.name, shape) else shape

    def tensor(self, name: str, index: int | None = None) -> Tensor:
        """As on the hub, of the file's dtype or dequantised to float32; marks it as read."""
        place = self._require(name)
        stored = self.index.tensors[place.name]
        index = place.expert if index is None else index
        found = self.dequantized_rows(stored, index)
        self.read.add(place.name)
        if self._row.shift and place.name.endswith("norm.weight"):
            found = found.float() - self._row.shift
        order = self._order(place.name)
        found = found if order is None else found[order]
        if self.is_turned(name):
            found = found.t()
        return found[None] if _is_squeezed(place.name, tuple(found.shape)) else found

    def summary(self) -> str:
        """How many bytes of the file stay as they are, and how many are dequantised."""
        sizes: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        for name, stored in self.index.tensors.items():
            if stored.kind not in _VIEWS:
                sizes[name in self.kept][stored.kind] += bytes_of(stored)
        kept, rest = (_shown(sizes[is_kept]) for is_kept in (True, False))
        return f"gguf: kept in 4 bits: {kept}; dequantised when loaded: {rest}"

    def gguf_name(self, name: str) -> str:
        """What the file calls a tensor of the hub."""
        return self._require(name).name

    def dequantized_rows(self, stored: Stored, index: int | None) -> Tensor:
        """A tensor, or one slice of a stack, in the file's own order."""
        rows, view = self.rows(stored, index), _VIEWS.get(stored.kind)
        if view is None:
            found = torch.from_numpy(dequantized(stored.kind, rows))
        else:
            found = torch.from_numpy(np.array(rows)).view(view)
        return found.view(stored.shape if index is None else stored.shape[1:])

    def kind(self, name: str) -> str:
        """GGUF's name of a tensor's type."""
        return self.index.tensors[self._require(name).name].kind

    def stored(self, name: str, index: int | None = None) -> npt.NDArray[np.uint8]:
        """The blocks of a matrix, (out_features, bytes), its rows as on the hub; marks it as read.

        index: of a stack.
        """
        place = self._require(name)
        index = place.expert if index is None else index
        rows = self.rows(self.index.tensors[place.name], index)
        self.read.add(place.name)
        self.kept.add(place.name)
        order = self._order(place.name)
        return rows if order is None else rows[order.numpy()]

    def is_turned(self, name: str) -> bool:
        """Whether the hub has a matrix as (in_features, out_features)."""
        place = self.place(name)
        return place is not None and any(
            place.name.endswith(f".{part}.weight") for part in self._row.turned
        )

    def place(self, name: str) -> Place | None:
        """Where a tensor of the hub is; None: nowhere."""
        if name not in self._places:
            self._places[name] = self._find(name)
        return self._places[name]

    def _find(self, name: str) -> Place | None:
        index, stem, suffix = None, name, ""
        match = _EXPERT.fullmatch(name)
        if match is not None:
            stem, index = f"{match[1]}.{match[3]}", int(match[2])
        for ending in (".weight", ".bias"):
            if stem.endswith(ending):
                stem, suffix = stem.removesuffix(ending), ending
        for candidate in (stem, stem.removeprefix(_PREFIX)):
            found = self._table.get_name(candidate)
            full = f"{found}{suffix or '.weight'}"
            if found is not None and full in self.index.tensors:
                return Place(full, index)
        return None

    def _require(self, name: str) -> Place:
        place = self.place(name)
        if place is None:
            raise WeightError(f"{self.folder}: tensor {name!r} is missing")
        return place

    def rows(self, stored: Stored, index: int | None) -> npt.NDArray[np.uint8]:
        """A tensor's bytes, (rows, bytes of a row); of one slice of a stack.

        Raises:
            WeightError: there are not as many slices.
        """
        rows = blocks(self._files[stored.file], stored)
        if index is None:
            return rows
        if not 0 <= index < stored.shape[0]:
            raise WeightError(
                f"{self.folder}: expert {index} is missing; there are {stored.shape[0]}"
            )
        count = math.prod(stored.shape[1:-1])
        return rows[index * count : (index + 1) * count]

    def _order(self, name: str) -> Tensor | None:
        part = _LAYER.sub("", name).rpartition(".")[0]
        make = self._row.rows.get(part)
        return None if make is None else make(self.index.heads)


def _shown(sizes: Counter[str]) -> str:
    each = " and ".join(f"{size / 1e6:.1f} MB in {kind}" for kind, size in sorted(sizes.items()))
    return each or "nothing"


def _is_squeezed(name: str, shape: tuple[int, ...]) -> bool:
    """Whether the hub has a vector as a matrix of one row."""
    return name.endswith(".ffn_gate_inp_shexp.weight") and len(shape) == 1

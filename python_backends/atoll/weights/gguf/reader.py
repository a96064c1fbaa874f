"""Reads tensors of GGUF files by the hub's names, as the hub has them.

The library's table finds GGUF's name of each; the rows, the sums and the shapes that llama.cpp's
converter has changed are changed back. Quantised tensors are dequantised when they are read, unless
``codes`` takes their blocks as they are.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atoll.errors import WeightError
from atoll.weights.gguf.architecture import Order, Sizes, joined_rows
from atoll.weights.gguf.file import Stored, blocks, bytes_of, dequantized
from atoll.weights.gguf.index import Index
from atoll.weights.gguf.names import Names, Place
from atoll.weights.gguf.rope import TENSORS
from atoll.weights.gguf.table import ARCHITECTURES
from atoll.weights.reader import CheckpointReader

_LAYER = re.compile(r"blk\.(\d+)\.")
# Heads, which an embedder does not need, and which are read apart from an encoder's trunk.
_HEADS = ("output.weight", "output.bias", "cls.")
# What the first releases of T5 have, and no model uses.
_UNUSED = ".cross_attn_rel_b.weight"
_VIEWS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Norms that nothing was added to in any family.
_UNSHIFTED = ("ssm_norm.weight",)


class GgufReader(CheckpointReader):
    """See ``CheckpointReader``. ``names``, ``read`` and ``kept`` are GGUF's names.

    kept: matrices whose blocks were taken as they are -> the bits of a code.
    """

    must_be_read = True

    def __init__(self, folder: Path) -> None:
        """Raises WeightError: the index is damaged, or files are not as it says."""
        import gguf

        self.folder, self.lost, self.read = folder, {}, set()
        self.kept: dict[str, int] = {}
        self.index = Index.load(folder)
        self._row = ARCHITECTURES[self.index.architecture]
        kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
        table = gguf.get_tensor_name_map(kinds[self.index.architecture], self.index.num_layers)
        self._names = Names(table, self._row.places, self.index.tensors)

    @cached_property
    def _sizes(self) -> Sizes:
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return Sizes(self.index.heads, config)

    @cached_property
    def _files(self) -> list[npt.NDArray[np.uint8]]:
        return [np.memmap(s.path, mode="r", dtype=np.uint8) for s in self.index.sources]

    @property
    def files(self) -> set[Path]:
        """See ``CheckpointReader``."""
        return {Path(source.path) for source in self.index.sources}

    def __contains__(self, name: str) -> bool:
        return self.place(name) is not None

    def names(self) -> list[str]:
        """Every tensor that has to be read."""
        return [
            name for name in self.index.tensors
            if name not in TENSORS and not name.startswith(_HEADS) and not name.endswith(_UNUSED)
        ]  # fmt: skip

    def shape(self, name: str) -> tuple[int, ...]:
        """As on the hub."""
        place = self._require(name)
        parts = []
        for part in place.names:
            shape = self.index.tensors[part].shape
            part_of = torch.empty(shape if place.expert is None else shape[1:], device="meta")
            parts.append(self._changed(part, part_of))
        found = tuple(place.join(parts).shape)
        return found[::-1] if self.is_turned(name) else found

    def tensor(self, name: str, index: int | None = None) -> Tensor:
        """As on the hub, of the file's dtype or dequantised to float32; marks it as read."""
        place = self._require(name)
        index = place.expert if index is None else index
        parts = []
        for part in place.names:
            found = self.dequantized_rows(self.index.tensors[part], index)
            self.read.add(part)
            if self._row.shift and part.endswith("norm.weight") and not part.endswith(_UNSHIFTED):
                found = found.float() - self._row.shift
            for dim, orders in enumerate((self._row.rows, self._row.columns)):
                order = self._order(part, orders)
                found = found if order is None else found.index_select(dim, order)
            parts.append(self._changed(part, found))
        whole = place.join(parts)
        return whole.t() if self.is_turned(name) else whole

    def summary(self) -> str:
        """How many bytes of the file stay in how many bits, and how many are dequantised."""
        sizes = {bits: Counter[str]() for bits in (4, 8, 0)}
        for name, stored in self.index.tensors.items():
            if stored.kind not in _VIEWS:
                sizes[self.kept.get(name, 0)][stored.kind] += bytes_of(stored)
        four, eight, rest = map(_shown, sizes.values())
        return f"gguf: kept in 4 bits: {four}; in 8 bits: {eight}; dequantised when loaded: {rest}"

    def gguf_names(self, name: str) -> tuple[str, ...]:
        """What the file calls a tensor of the hub, or its parts."""
        return self._require(name).names

    def stem(self, name: str) -> str:
        """How the file's names of a module of the hub begin."""
        found = self._names.stem(name)
        return super().stem(name) if found is None else f"{found}."

    def dequantized_rows(self, stored: Stored, index: int | None) -> Tensor:
        """A tensor, or one slice of a stack, in the file's own order."""
        rows, view = self.rows(stored, index), _VIEWS.get(stored.kind)
        if view is None:
            found = torch.from_numpy(dequantized(stored.kind, rows))
        else:
            found = torch.from_numpy(np.array(rows)).view(view)
        return found.view(stored.shape if index is None else stored.shape[1:])

    def kind(self, name: str) -> str:
        """GGUF's name of a tensor's type; "" where it is joined of several, or changed."""
        place = self._require(name)
        kinds = {self.index.tensors[part].kind for part in place.names}
        is_plain = place.join is joined_rows and not any(
            self._ending(part) in self._row.changes for part in place.names
        )
        return kinds.pop() if is_plain and len(kinds) == 1 else ""

    def stored(self, name: str, index: int | None, bits: int) -> npt.NDArray[np.uint8]:
        """The blocks of a matrix, (out_features, bytes), its rows as on the hub; marks it as read.

        index: of a stack. bits: in which the codes are kept.
        """
        place = self._require(name)
        index = place.expert if index is None else index
        parts = []
        for part in place.names:
            rows = self.rows(self.index.tensors[part], index)
            self.read.add(part)
            self.kept[part] = bits
            order = self._order(part, self._row.rows)
            parts.append(rows if order is None else rows[order.numpy()])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def columns(self, name: str) -> Tensor | None:
        """The hub's order of a matrix's inputs: each one's place in ``stored``; None: the same."""
        return self._order(self._require(name).names[0], self._row.columns)

    def is_turned(self, name: str) -> bool:
        """Whether the hub has a matrix as (in_features, out_features)."""
        place = self.place(name)
        return place is not None and any(
            place.names[0].endswith(f".{part}.weight") for part in self._row.turned
        )

    def place(self, name: str) -> Place | None:
        """Where a tensor of the hub is; None: nowhere."""
        return self._names.find(name)

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

    def _order(self, name: str, orders: Mapping[str, Order]) -> Tensor | None:
        make = orders.get(self._ending(name).removesuffix(".weight").removesuffix(".bias"))
        return None if make is None else make(self._sizes)

    def _changed(self, name: str, found: Tensor) -> Tensor:
        """A tensor in the hub's form, whose rows are in its order."""
        change = self._row.changes.get(self._ending(name))
        if change is not None:
            return change(found)
        is_squeezed = name.endswith(".ffn_gate_inp_shexp.weight") and found.dim() == 1
        return found[None] if is_squeezed else found

    @staticmethod
    def _ending(name: str) -> str:
        """A name without its layer."""
        return _LAYER.sub("", name)


def _shown(sizes: Counter[str]) -> str:
    each = " and ".join(f"{size / 1e6:.1f} MB in {kind}" for kind, size in sorted(sizes.items()))
    return each or "nothing"

"""What one of our modules gets to load from: the tensors that a table's source stands for.

Every tensor is checked by name, shape and kind before it is read: a checkpoint that differs from
its config is refused, whatever part of a fused projection it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atoll.errors import WeightError
from atoll.weights.parts import Part, take
from atoll.weights.reader import CheckpointReader
from atoll.weights.weight_map import ALIASES, FirstOf, Reorder, Source, Transposed, full_name


class Mismatch(WeightError):
    """The tensors of a checkpoint and its config.json contradict each other."""


# What a layer may have of, in the order of how much is missing without it.
_SUFFIXES = ("weight", "qweight", "qzeros", "scales", "bias")
_STACKED = re.compile(r"\[(\d+)\]$")


@dataclass(frozen=True)
class LayerTensors:
    """The tensors of one of our modules, in the checkpoint's dtype and our order."""

    reader: CheckpointReader
    prefix: str
    source: Source
    config: Any
    target: str
    input_scales_source: str | None = None

    def has(self, suffix: str) -> bool:
        """Whether the checkpoint holds this tensor for every part."""
        return all(self._locate(part, suffix) for part in self.parts())

    def parts(self) -> tuple[str, ...]:
        """Names in the checkpoint of the concatenated parts, without suffix."""
        return self._parts(self.source)

    def full_names(self) -> tuple[str, ...]:
        """``parts()`` with the checkpoint's prefix."""
        return tuple(self._full(part) for part in self.parts())

    def chosen_source(self) -> Source:
        """The source that this checkpoint has, where there are several."""
        return self._chosen(self.source)

    def get(
        self,
        suffix: str,
        shape: Sequence[int | Part],
        rows: Sequence[int] | None = None,
        zero_parts: Sequence[int] = (),
    ) -> Tensor:
        """One tensor of the module, parts concatenated, rows reordered.

        Args:
            shape: of a vector or a matrix; of a part of it, of which alone the file is read.
            rows: of each part, where there are as many; equal shares otherwise.
            zero_parts: which parts no file has: zeros stand for them.

        Raises:
            WeightError: missing, or of another shape; names the tensor and both shapes.
        """
        outputs, *others = map(Part.of, shape)
        shares = self.shares(outputs.total, rows)
        sizes = tuple(other.total for other in others)
        tensors = [
            torch.zeros(share, *sizes)
            if index in zero_parts
            else self.part(part, suffix, (share, *sizes))
            for index, (part, share) in enumerate(zip(self.parts(), shares, strict=True))
        ]
        for inputs in others:
            tensors = [t if inputs.is_whole else inputs.columns(t).contiguous() for t in tensors]
        order = self.rows()
        if not outputs.is_whole:
            return take(tensors, outputs.rows(order))
        found = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        return found if order is None else found[order]

    def part(self, part: str, suffix: str, shape: Sequence[int]) -> Tensor:
        """One part's tensor, (out_features, ...) however it is stored.

        Raises:
            WeightError: missing, of another shape, or not of floating point; names it.
        """
        is_turned = len(shape) == 2 and self.is_turned()
        self.check_shape(part, suffix, tuple(shape)[::-1] if is_turned else shape)
        stored = self.raw(part, suffix)
        # Of eight bits it would need scales, which only a quantised layer has.
        if not stored.is_floating_point() or stored.dtype.itemsize < 2:
            dtype, name = str(stored.dtype).removeprefix("torch."), self.name(part, suffix)
            or_scaled = f", or {name}_scale_inv beside it" if stored.is_floating_point() else ""
            raise Mismatch(
                f"{self.reader.folder}: tensor {name!r} is {dtype}; expected floating point of 16 "
                f"bits or more{or_scaled}"
            )
        return stored.t() if is_turned else stored

    def bias(
        self,
        size: int | Part,
        is_expected: bool,
        rows: Sequence[int] | None = None,
        zero_parts: Sequence[int] = (),
    ) -> Tensor | None:
        """The bias of a module that has one by its config or family; None for one without.

        rows, zero_parts: see ``get``.

        Raises:
            WeightError: it is missing; or there is one, not all zero, where there should be none.
        """
        if is_expected:
            for part in (self.parts()[index] for index in zero_parts):
                if self.has_part(part, "bias") and bool(self.raw(part, "bias").any()):
                    raise Mismatch(
                        f"{self.reader.folder}: tensor {self.name(part, 'bias')!r} is left over: "
                        f"this part of {self.target} has no bias"
                    )
            return self.get("bias", (size,), rows, zero_parts)
        # Old GPTQ files have zeros for every layer.
        if any(bool(self.raw(p, "bias").any()) for p in self.parts() if self.has_part(p, "bias")):
            self.refuse("bias")
        return None

    def refuse(self, suffix: str) -> None:
        """Raises WeightError: the checkpoint has a tensor that its config does not know."""
        found = [self.name(part, suffix) for part in self.parts() if self.has_part(part, suffix)]
        if found:
            raise Mismatch(
                f"{self.reader.folder}: tensors left over, config.json differs: by it "
                f"{self.target} has no {suffix}, and there is {', '.join(found)}"
            )

    def shares(self, total: int, rows: Sequence[int] | None = None) -> Sequence[int]:
        """How many of ``total`` rows each part has."""
        count = len(self.parts())
        if rows is not None and len(rows) == count:
            return rows
        return [total // count] * count

    def check_shape(self, part: str, suffix: str, wanted: Sequence[int]) -> None:
        """Raises WeightError: one part's tensor is missing, or has another shape; names both."""
        found = self.shape(part, suffix)
        if found != tuple(wanted):
            raise Mismatch(
                f"{self.reader.folder}: tensor {self.name(part, suffix)!r} has shape {found}; "
                f"by config.json {self.target}.{suffix} needs {tuple(wanted)}"
            )

    def shape(self, part: str, suffix: str) -> tuple[int, ...]:
        """The stored shape of one part's tensor.

        Raises:
            WeightError: it is missing, or it is no stack of as many as there are experts.
        """
        found = self.reader.shape(self._require(part, suffix))
        if _STACKED.search(part) is None:
            return found
        count = self.config.num_experts
        if found[:1] != (count,):
            raise Mismatch(
                f"{self.reader.folder}: tensor {self.name(part, suffix)!r} has shape {found}; "
                f"config.json says that there are {count} experts"
            )
        return found[1:]

    def name(self, part: str, suffix: str) -> str:
        """What the file calls one part's tensor, or would call it."""
        found = self._locate(part, suffix)
        if found is not None:
            return found
        is_stacked = _STACKED.search(part)
        return self._stack(part, suffix) if is_stacked else f"{self._full(part)}.{suffix}"

    def has_part(self, part: str, suffix: str) -> bool:
        """Whether the checkpoint holds this tensor for one of ``parts()``."""
        return self._locate(part, suffix) is not None

    def rows(self) -> Tensor | None:
        """The permutation of output features, if the source has one."""
        source = self._chosen(self.source)
        return source.rows(self.config) if isinstance(source, Reorder) else None

    def is_turned(self) -> bool:
        """Whether matrices are stored as (in_features, out_features)."""
        source = self._chosen(self.source)
        source = self._chosen(source.source) if isinstance(source, Reorder) else source
        return isinstance(source, Transposed) and source.when(self.config)

    def raw(self, part: str, suffix: str) -> Tensor:
        """One part's tensor exactly as stored (quantised layouts)."""
        return self.reader.tensor(self._require(part, suffix), self.index(part))

    def index(self, part: str) -> int | None:
        """Which slice of a stack one of ``parts()`` is; None if it is a matrix of its own."""
        index = _STACKED.search(part)
        return None if index is None else int(index[1])

    def _parts(self, source: Source) -> tuple[str, ...]:
        source = self._chosen(source)
        if isinstance(source, (Reorder, Transposed)):
            return self._parts(source.source)
        return (source,) if isinstance(source, str) else tuple(source)  # type: ignore[arg-type]

    def _chosen(self, source: Source) -> Source:
        if not isinstance(source, FirstOf):
            return source
        # Of a source that is there in part the rest is missing.
        for matches, suffixes in ((all, ("weight", "qweight")), (any, _SUFFIXES)):
            for candidate in source.sources:
                if matches(self._has_one(part, suffixes) for part in self._parts(candidate)):
                    return self._chosen(candidate)
        return self._chosen(source.sources[0])

    def _has_one(self, part: str, suffixes: Sequence[str]) -> bool:
        return any(self._locate(part, suffix) for suffix in suffixes)

    def _require(self, part: str, suffix: str) -> str:
        name = self._locate(part, suffix)
        if name is None:
            names = [self.name(part, suffix), *self._other_names(part, suffix)]
            also = f", and so is {', '.join(map(repr, names[1:]))}" if names[1:] else ""
            file = self.reader.lost.get(names[0])
            where = "" if file is None else f" from {file}, where the index says that it is"
            raise Mismatch(f"{self.reader.folder}: tensor {names[0]!r} is missing{where}{also}")
        return name

    def _other_names(self, part: str, suffix: str) -> list[str]:
        """What else the file might have called a tensor that is missing."""
        old = [a for a in ALIASES.get(suffix, ())[1:] if self._has_any(a)]
        aliases = [f"{self._full(part)}.{alias}" for alias in old]
        sources = self.source.sources if isinstance(self.source, FirstOf) else ()
        rest = [other for source in sources for other in self._parts(source)]
        if part not in rest or suffix != "weight":
            rest = []
        chosen = self.parts()
        return [*aliases, *(self.name(other, suffix) for other in rest if other not in chosen)]

    def _has_any(self, suffix: str) -> bool:
        return any(name.endswith(f".{suffix}") for name in self.reader.names())

    def _locate(self, part: str, suffix: str) -> str | None:
        if _STACKED.search(part):
            name = self._stack(part, suffix)
            return name if name in self.reader else None
        for alias in ALIASES.get(suffix, (suffix,)):
            name = f"{self._full(part)}.{alias}"
            if name in self.reader:
                return name
        return None

    def _stack(self, part: str, suffix: str) -> str:
        """The tensor with that of every expert: ``down_proj``, ``down_proj_bias``."""
        name = _STACKED.sub("", self._full(part))
        return name if suffix == "weight" else f"{name}_{suffix}"

    def _full(self, part: str) -> str:
        if "{num_layers+1}" in part:
            part = part.replace("{num_layers+1}", str(self.config.num_layers + 1))
        return full_name(self.prefix, part)

"""The table that maps a checkpoint's module names to ours, and what a module gets to load from.

A table is target-first: the key is the name of one of our modules (``{i}`` stands for any index),
the value says where its tensors are. Suffixes (``.weight``, ``.bias``, ``.qweight`` ...) are not
written: a module asks for them, so that biases exist where the file has them.

A source is one of:

- ``"name"``: one module of the checkpoint;
- ``("a", "b", "c")``: several, concatenated along the output features;
- ``Reorder(source, rows)``: output features permuted (fused QKV orders);
- ``Transposed(source)``: stored as (in_features, out_features), GPT-2's Conv1D;
- ``Either(source, ...)``: the first that the checkpoint has;
- ``"name[3]"``: slice 3 of a stack of matrices, whose name has no suffix (fused experts).

A name gets the checkpoint's prefix (``bert.``, ``transformer.``) unless it starts with ``/``.
In it, ``{i}``, ``{i+1}`` and ``{e}`` are the indices of our module, ``{num_layers+1}`` is counted
from the config.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from atoll.errors import WeightError
from atoll.weights.reader import CheckpointReader

# Old TensorFlow exports call LayerNorm's tensors gamma and beta.
ALIASES = {"weight": ("weight", "gamma"), "bias": ("bias", "beta")}
_STACKED = re.compile(r"\[(\d+)\]$")


@dataclass(frozen=True)
class Reorder:
    """``rows(config)`` is a LongTensor: our row r is row ``rows[r]`` of the checkpoint."""

    source: Source
    rows: Callable[[Any], Tensor]


@dataclass(frozen=True)
class Transposed:
    """The checkpoint holds each matrix as (in_features, out_features), if ``when(config)``."""

    source: Source
    when: Callable[[Any], bool] = lambda config: True


@dataclass(frozen=True)
class Either:
    """The first source whose weight the checkpoint has."""

    sources: tuple[Source, ...]

    def __init__(self, *sources: Source) -> None:
        object.__setattr__(self, "sources", sources)


Source = str | tuple[str, ...] | Reorder | Transposed | Either


@dataclass(frozen=True)
class Weights:
    """Where a model's tensors are in a checkpoint.

    prefixes: tried in order; the first under which a tensor exists for ``anchor`` is used.
    anchor: a module that every checkpoint of the family has.
    optional: our modules that may be absent altogether (a pooler); they keep no tensors.
    tied: our module -> our module whose weight it shares when its own is not in the file.
    complete: names that begin so, behind the prefix, must all be used: a norm or an adapter that
        the architecture does not know changes every answer.
    input_scales: our module -> a module of the checkpoint whose ``scales`` divide its inputs (AWQ
        puts them behind activations that no linear layer could absorb).
    """

    modules: Mapping[str, Source]
    anchor: str
    prefixes: Sequence[str] = ("",)
    optional: Sequence[str] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    input_scales: Mapping[str, str] = field(default_factory=dict)
    complete: str | None = None

    def prefix(self, reader: CheckpointReader) -> str:
        """The prefix of this checkpoint.

        Raises:
            WeightError: the anchor is under none of them.
        """
        for prefix in self.prefixes:
            if any(f"{prefix}{self.anchor}.{s}" in reader for s in ("weight", "gamma", "qweight")):
                return prefix
        tried = [f"{prefix}{self.anchor}.weight" for prefix in self.prefixes]
        hint = ""
        if any(".lora_A." in name for name in reader.names()):
            hint = "; it is an adapter: serve the model it was made for, with lora_adapters"
        raise WeightError(f"{reader.folder}: none of {tried} is in the checkpoint{hint}")

    def is_in(self, reader: CheckpointReader) -> bool:
        """Whether the anchor is in the checkpoint, under one of the prefixes."""
        return any(f"{prefix}{self.anchor}.weight" in reader for prefix in self.prefixes)

    def find(self, module_name: str) -> Source | None:
        """The source of one of our modules, its indices filled in; None if the table lacks it."""
        found: Source | None = _lookup(self.modules, module_name)
        return found

    def find_input_scales(self, module_name: str) -> str | None:
        """Where the divisors of a module's inputs would be, indices filled in."""
        found = _lookup(self.input_scales, module_name)
        assert found is None or isinstance(found, str)
        return found


@dataclass(frozen=True)
class Group:
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

    def get(self, suffix: str, shape: Sequence[int]) -> Tensor:
        """One tensor of the module, parts concatenated, rows reordered.

        Raises:
            WeightError: missing, or of another shape; names the tensor and both shapes.
        """
        found = self._resolve(self.source, suffix)
        if tuple(found.shape) != tuple(shape):
            names = ", ".join(f"{part}.{suffix}" for part in self.parts())
            raise WeightError(
                f"{self.reader.folder}: {names} has shape {tuple(found.shape)}; "
                f"{self.target}.{suffix} needs {tuple(shape)}"
            )
        return found

    def has_part(self, part: str, suffix: str) -> bool:
        """Whether the checkpoint holds this tensor for one of ``parts()``."""
        return self._locate(part, suffix) is not None

    def input_scales(self) -> Tensor | None:
        """Divisors of the inputs, (in_features,), if the checkpoint has them."""
        source = self.input_scales_source
        if source is None or not self.has_part(source, "scales"):
            return None
        return self.raw(source, "scales")

    def rows(self) -> Tensor | None:
        """The permutation of output features, if the source has one."""
        source = self._chosen(self.source)
        return source.rows(self.config) if isinstance(source, Reorder) else None

    def raw(self, part: str, suffix: str) -> Tensor:
        """One part's tensor exactly as stored (quantised layouts)."""
        name = self._locate(part, suffix)
        if name is None:
            raise WeightError(
                f"{self.reader.folder}: tensor '{self._full(part)}.{suffix}' is missing"
            )
        index = _STACKED.search(part)
        return self.reader.tensor(name, None if index is None else int(index[1]))

    def _resolve(self, source: Source, suffix: str) -> Tensor:
        source = self._chosen(source)
        if isinstance(source, Reorder):
            found = self._resolve(source.source, suffix)
            rows = source.rows(self.config)
            if rows.numel() != found.shape[0]:
                raise WeightError(
                    f"{self.reader.folder}: {self._parts(source)[0]}.{suffix} has "
                    f"{found.shape[0]} rows; {self.target} needs {rows.numel()}"
                )
            return found[rows]
        if isinstance(source, Transposed):
            stored = [self.raw(part, suffix) for part in self._parts(source.source)]
            turned = source.when(self.config)
            return torch.cat([t.t() if turned and t.dim() == 2 else t for t in stored])
        if isinstance(source, str):
            return self.raw(source, suffix)
        return torch.cat([self.raw(part, suffix) for part in self._parts(source)])

    def _parts(self, source: Source) -> tuple[str, ...]:
        source = self._chosen(source)
        if isinstance(source, (Reorder, Transposed)):
            return self._parts(source.source)
        return (source,) if isinstance(source, str) else tuple(source)  # type: ignore[arg-type]

    def _chosen(self, source: Source) -> Source:
        if not isinstance(source, Either):
            return source
        for candidate in source.sources:
            if all(
                self._locate(part, "weight") or self._locate(part, "qweight")
                for part in self._parts(candidate)
            ):
                return self._chosen(candidate)
        return self._chosen(source.sources[0])

    def _locate(self, part: str, suffix: str) -> str | None:
        if _STACKED.search(part):
            name = _STACKED.sub("", self._full(part))
            return name if suffix == "weight" and name in self.reader else None
        for alias in ALIASES.get(suffix, (suffix,)):
            name = f"{self._full(part)}.{alias}"
            if name in self.reader:
                return name
        return None

    def _full(self, part: str) -> str:
        if "{num_layers+1}" in part:
            part = part.replace("{num_layers+1}", str(self.config.num_layers + 1))
        return part[1:] if part.startswith("/") else self.prefix + part


def _lookup(table: Mapping[str, Any], module_name: str) -> Any:
    for target, source in table.items():
        pattern = re.escape(target).replace(r"\{i\}", r"(\d+)").replace(r"\{e\}", r"(\d+)")
        match = re.fullmatch(pattern, module_name)
        if match:
            return _fill(source, list(match.groups()))
    return None


def _fill(source: Source, indices: list[str]) -> Source:
    if isinstance(source, str):
        filled = source
        for placeholder, index in zip(("{i}", "{e}"), indices, strict=False):
            filled = filled.replace(placeholder, index)
        return filled.replace("{i+1}", str(int(indices[0]) + 1)) if indices else filled
    if isinstance(source, Reorder):
        return Reorder(_fill(source.source, indices), source.rows)
    if isinstance(source, Transposed):
        return Transposed(_fill(source.source, indices), source.when)
    if isinstance(source, Either):
        return Either(*(_fill(s, indices) for s in source.sources))
    return tuple(_fill(part, indices) for part in source)  # type: ignore[misc]

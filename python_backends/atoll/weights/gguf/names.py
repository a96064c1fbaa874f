"""What a GGUF file calls the tensors of the hub: the library's table, and what it lacks."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from atoll.weights.gguf.architecture import Source, joined_rows

_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(.+)")
# What the converter renames before it asks the table.
_RENAMED = {
    ".dt_bias": ".dt_proj.bias", ".e_score_correction_bias": ".e_score_correction.bias",
    ".feed_forward.expert_bias": ".feed_forward.expert_bias.bias",
}  # fmt: skip
# One family's names have it on the hub, and not in the library's table.
_PREFIX = "transformer."


class Place(NamedTuple):
    """Where a tensor of the hub is: GGUF's names, which slice of a stack, and how they are joined.

    join: see ``Source``.
    """

    names: tuple[str, ...]
    expert: int | None
    join: Callable[[Sequence[Tensor]], Tensor] = joined_rows


class Names:
    """The places of one file's tensors."""

    def __init__(
        self, table: Any, places: Mapping[str, tuple[Source, ...]], tensors: Collection[str]
    ) -> None:
        """table: the library's. places: see ``Architecture``. tensors: GGUF's names."""
        self._table, self._tensors = table, tensors
        self._places = [
            (re.compile(re.escape(name).replace(r"\{i\}", r"(\d+)")), sources)
            for name, sources in places.items()
        ]
        self._found: dict[str, Place | None] = {}

    def find(self, name: str) -> Place | None:
        """Where a tensor of the hub is; None: nowhere."""
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def stem(self, name: str) -> str | None:
        """GGUF's name of a module of the hub, if the table has it."""
        found: str | None = self._table.get_name(name)
        return found

    def _find(self, name: str) -> Place | None:
        index, stem, suffix = None, name, ""
        match = _EXPERT.fullmatch(name)
        if match is not None:
            stem, index = f"{match[1]}.{match[3]}", int(match[2])
        for ending, other in _RENAMED.items():
            if stem.endswith(ending):
                stem = stem.removesuffix(ending) + other
        for ending in (".weight", ".bias"):
            if stem.endswith(ending):
                stem, suffix = stem.removesuffix(ending), ending
        for pattern, sources in self._places:
            found = pattern.fullmatch(stem)
            if found is not None:
                layer = f"blk.{found[1]}." if found.groups() else ""
                return self._first(sources, layer, suffix, index)
        for candidate in (stem, stem.removeprefix(_PREFIX)):
            known = self._table.get_name(candidate)
            whole = None if known is None else self._full(known, suffix)
            if whole is not None:
                return Place((whole,), index)
        return None

    def _first(
        self, sources: Sequence[Source], layer: str, suffix: str, index: int | None
    ) -> Place | None:
        """The first of several places that the file has."""
        for source in sources:
            full = [self._full(f"{layer}{part}", suffix) for part in source.parts]
            if None not in full:
                return Place(tuple(filter(None, full)), index, source.join)
        return None

    def _full(self, name: str, suffix: str) -> str | None:
        """With its suffix; some tensors lack ``.weight`` there or on the hub alone."""
        candidates = [name + suffix] if suffix == ".bias" else [f"{name}.weight", name]
        return next((each for each in candidates if each in self._tensors), None)

"""The table that maps a checkpoint's module names to ours, and what a module gets to load from.

A table is target-first: the key is the name of one of our modules (``{i}`` stands for any index),
the value says where its tensors are. Suffixes (``.weight``, ``.bias``, ``.qweight`` ...) are not
written: a module asks for them. Whether there is a bias is for the config or the family to say.

A source is one of:

- ``"name"``: one module of the checkpoint;
- ``("a", "b", "c")``: several, concatenated along the output features;
- ``Reorder(source, rows)``: output features permuted (fused QKV orders);
- ``Transposed(source)``: stored as (in_features, out_features), GPT-2's Conv1D;
- ``FirstOf(source, ...)``: the first that the checkpoint has;
- ``"name[3]"``: slice 3 of a stack of matrices, whose name has no suffix (fused experts); what
  else there is of the stack is called after it: ``name_bias``, ``name_scales``.

A name gets the checkpoint's prefix (``bert.``, ``transformer.``) unless it starts with ``/``; a
language model that is part of another one has its head beside its trunk (see ``TEXT_PREFIXES``).
In it, ``{i}``, ``{i+1}`` and ``{e}`` are the indices of our module, ``{num_layers+1}`` is counted
from the config.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from atoll.weights.reader import CheckpointReader

# Old TensorFlow exports call LayerNorm's tensors gamma and beta.
ALIASES = {"weight": ("weight", "gamma"), "bias": ("bias", "beta")}
_WRAPPED = "language_model."
# Of a language model in a checkpoint that has parts for images or sound besides: the first as
# published, with ``language_model.lm_head``, the second as saved again, with ``lm_head``.
TEXT_PREFIXES = (f"{_WRAPPED}model.", "model.language_model.")
# What the other parts are called, there and below ``model.``; the last predicts further tokens.
OTHER_PARTS = (
    "vision_tower.", "multi_modal_projector.", "visual.", "audio_tower.", "embed_vision.",
    "embed_audio.", "mtp.",
)  # fmt: skip


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
class FirstOf:
    """The first source whose weight the checkpoint has."""

    sources: tuple[Source, ...]

    def __init__(self, *sources: Source) -> None:
        object.__setattr__(self, "sources", sources)


Source = str | tuple[str, ...] | Reorder | Transposed | FirstOf


@dataclass(frozen=True)
class WeightMap:
    """Where a model's tensors are in a checkpoint.

    prefixes: tried in order; the first under which a tensor exists for ``anchor`` is used.
    anchor: a module that every checkpoint of the family has.
    tied: our module -> our module whose weight it shares when its own is not in the file.
    complete: weights and biases whose names begin so, behind the prefix, must all be used: a norm
        or an adapter that the architecture does not know changes every answer.
    extra_layers: what every layer has that a file holds beyond the model's last for another use;
        such layers are not read. ``{i}`` is the layer.
    unused: modules that a file has of a config, and its model does not run, behind the prefix.
    buffers: endings of names that are neither, though they read like it (masks).
    input_scales: our module -> a module of the checkpoint whose ``scales`` divide its inputs (AWQ
        puts them behind activations that no linear layer could absorb).
    """

    modules: Mapping[str, Source]
    anchor: str
    prefixes: Sequence[str] = ("",)
    tied: Mapping[str, str] = field(default_factory=dict)
    input_scales: Mapping[str, str] = field(default_factory=dict)
    complete: Sequence[str] = ()
    extra_layers: str = ""
    unused: Callable[[Any], Sequence[str]] = lambda config: ()
    buffers: Sequence[str] = ()

    def prefix(self, reader: CheckpointReader) -> str | None:
        """The prefix of this checkpoint; None: the anchor is under none of them."""
        suffixes = (*ALIASES["weight"], "qweight")
        for prefix in self.prefixes:
            if any(f"{prefix}{self.anchor}.{suffix}" in reader for suffix in suffixes):
                return prefix
        return None

    def anchors(self) -> list[str]:
        """What one of must be in a checkpoint."""
        return [f"{prefix}{self.anchor}.weight" for prefix in self.prefixes]

    def find(self, module_name: str) -> Source | None:
        """The source of one of our modules, its indices filled in; None if the table lacks it."""
        found: Source | None = _lookup(self.modules, module_name)
        return found

    def find_input_scales(self, module_name: str) -> str | None:
        """Where the divisors of a module's inputs would be, indices filled in."""
        found = _lookup(self.input_scales, module_name)
        assert found is None or isinstance(found, str)
        return found


def full_name(prefix: str, name: str) -> str:
    """A table's name in a checkpoint with that prefix."""
    if not name.startswith("/"):
        return prefix + name
    return (_WRAPPED if prefix.startswith(_WRAPPED) else "") + name[1:]


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
    if isinstance(source, FirstOf):
        return FirstOf(*(_fill(s, indices) for s in source.sources))
    return tuple(_fill(part, indices) for part in source)  # type: ignore[misc]

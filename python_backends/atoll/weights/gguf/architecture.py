"""A row of the table of architectures: how llama.cpp's form of a family becomes the hub's.

llama.cpp's converter changes names, the order of rows, and some values; its code holds what
config.json has and metadata lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atoll.weights.fused_qkv import grouped_qkv
from atoll.weights.gguf.file import GgufFile

Config = Mapping[str, Any]


class Heads(NamedTuple):
    """Of an attention."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


class Sizes(NamedTuple):
    """What the order of rows follows from. config: config.json."""

    heads: Heads
    config: Config


# Of one tensor: the hub's row (or column) i is row ``order[i]`` of the file.
Order = Callable[[Sizes], Tensor]
# Makes of a tensor of the file what the hub has; without data it is called with a meta tensor.
Change = Callable[[Tensor], Tensor]
# Changes a config by what only this family needs; raises UnsupportedModel.
Finish = Callable[[GgufFile, dict[str, Any]], None]


def joined_rows(parts: Sequence[Tensor]) -> Tensor:
    """Matrices, or stacks of them, one below the other."""
    return torch.cat(list(parts), dim=-2) if len(parts) > 1 else parts[0]


class Source(NamedTuple):
    """Tensors of a layer that are one on the hub: names without ``blk.{i}.``."""

    parts: tuple[str, ...]
    join: Callable[[Sequence[Tensor]], Tensor] = joined_rows


@dataclass(frozen=True)
class Architecture:
    """How files of one ``general.architecture`` are read.

    model_type, hub_class: of config.json. table: the row of transformers' table of metadata keys
    that this one starts from. keys: those that differ from it, or that it lacks; None for what says
    nothing that another key does not. constants: what llama.cpp's code says. flags: key of
    config.json -> ending of a tensor that is there if it is true. required: keys that a file must
    have, besides those of every architecture. partial: the key of the rotated
    share of a head, if it can be less than all. heads: how they are read, if not as usual.
    is_hybrid: whether layers without attention have 0 as their number of key and value heads.
    places: names on the hub that the library's table lacks or has wrong, ``{i}`` the layer -> where
    they may be; the first that a file has. rows, columns: by a tensor's name without layer and
    ``.weight``. changes: by its name without layer. shift: what was added to the weights of norms.
    turned: matrices that the hub stores as (in, out).
    """

    model_type: str
    hub_class: str
    table: str = "llama"
    keys: Mapping[str, str | None] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    partial: str | None = None
    has_head_dim: bool = True
    has_rope: bool = True
    heads: Callable[[GgufFile], Heads] | None = None
    is_hybrid: bool = False
    places: Mapping[str, tuple[Source, ...]] = field(default_factory=dict)
    rows: Mapping[str, Order] = field(default_factory=dict)
    columns: Mapping[str, Order] = field(default_factory=dict)
    changes: Mapping[str, Change] = field(default_factory=dict)
    shift: float = 0.0
    turned: tuple[str, ...] = ()
    finish: Finish | None = None


def unpaired_queries(sizes: Sizes) -> Tensor:
    """Rows of queries whose rotated pairs stand side by side, (rows,) int64."""
    return _unpaired(sizes.heads.num_heads, sizes.heads.head_dim)


def unpaired_keys(sizes: Sizes) -> Tensor:
    """As ``unpaired_queries``, of keys."""
    return _unpaired(sizes.heads.num_kv_heads, sizes.heads.head_dim)


def regrouped(sizes: Sizes) -> Tensor:
    """Rows of [q; k; v] in the hub's groups, (rows,) int64."""
    return grouped_qkv(*sizes.heads).argsort()


def _unpaired(num_heads: int, head_dim: int) -> Tensor:
    # Row 2j + h of a head in the file is row h * head_dim / 2 + j on the hub.
    rows = torch.arange(num_heads * head_dim).view(num_heads, head_dim // 2, 2)
    return rows.transpose(1, 2).flatten()

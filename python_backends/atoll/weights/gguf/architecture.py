"""A row of the table of architectures: how llama.cpp's form of a family becomes the hub's.

llama.cpp's converter changes names, the order of rows, and some values; its code holds what
config.json has and metadata lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atoll.weights.fused_qkv import grouped_qkv
from atoll.weights.gguf.file import GgufFile


class Heads(NamedTuple):
    """Of an attention."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


# Of one tensor: the hub's row i is row ``order[i]`` of the file.
RowOrder = Callable[[Heads], Tensor]
# Changes a config by what only this family needs; raises UnsupportedModel.
Finish = Callable[[GgufFile, dict[str, Any]], None]


@dataclass(frozen=True)
class Architecture:
    """How files of one ``general.architecture`` are read.

    model_type, hub_class: of config.json. table: the row of transformers' table of metadata keys
    that this one starts from. keys: those that differ from it, or that it lacks; None for what says
    nothing that another key does not. constants: what llama.cpp's code says. flags: key of
    config.json -> ending of a tensor that is there if it is true. partial: the key of the rotated
    share of a head, if it can be less than all. rows: by the last part of a tensor's name. shift:
    what was added to the weights of norms. turned: matrices that the hub stores as (in, out).
    """

    model_type: str
    hub_class: str
    table: str = "llama"
    keys: Mapping[str, str | None] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    partial: str | None = None
    has_head_dim: bool = True
    has_rope: bool = True
    rows: Mapping[str, RowOrder] = field(default_factory=dict)
    shift: float = 0.0
    turned: tuple[str, ...] = ()
    finish: Finish | None = None


def unpaired_queries(heads: Heads) -> Tensor:
    """Rows of queries whose rotated pairs stand side by side, (rows,) int64."""
    return _unpaired(heads.num_heads, heads.head_dim)


def unpaired_keys(heads: Heads) -> Tensor:
    """As ``unpaired_queries``, of keys."""
    return _unpaired(heads.num_kv_heads, heads.head_dim)


def regrouped(heads: Heads) -> Tensor:
    """Rows of [q; k; v] in the hub's groups, (rows,) int64."""
    return grouped_qkv(*heads).argsort()


def _unpaired(num_heads: int, head_dim: int) -> Tensor:
    # Row 2j + h of a head in the file is row h * head_dim / 2 + j on the hub.
    rows = torch.arange(num_heads * head_dim).view(num_heads, head_dim // 2, 2)
    return rows.transpose(1, 2).flatten()

"""Inputs that are made alike for checking, for timing and for whole models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from atoll_kernels import PackedLinear
from atoll_kernels.gpu import quantized


class Heads(NamedTuple):
    """The heads of a model's attention."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def scale(self) -> float:
        """The usual factor of the products of queries and keys."""
        return float(self.head_dim**-0.5)


def cu_seqlens(lengths: Sequence[int], device: torch.device) -> Tensor:
    """(num_seqs + 1,) int32: where each sequence begins, and the end of the last."""
    return torch.tensor([0, *lengths], device=device).cumsum(0).int()


def dense(weights: Sequence[Tensor]) -> tuple[PackedLinear, ...]:
    """A linear layer without bias for each weight (outputs, inputs)."""
    return tuple(quantized.GpuDense(w.shape[1], w.shape[0], (w,), None) for w in weights)

"""Checks and conversions of the arguments of native kernels."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16)


def are_native(first: Tensor, *others: Tensor) -> bool:
    """Whether all have the same dtype, one that kernels take, and contiguous rows."""
    if first.dtype not in DTYPES or any(x.dtype != first.dtype for x in others):
        return False
    return first.stride(-1) == 1 and all(x.stride(-1) == 1 for x in others)


def address(x: Tensor | None) -> int:
    """The address of the data; 0 for None."""
    return 0 if x is None else x.data_ptr()

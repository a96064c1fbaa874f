"""What native kernels can be given."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16)


def are_native(first: Tensor, *others: Tensor) -> bool:
    """Whether all have one dtype that kernels take, and contiguous rows."""
    if first.dtype not in DTYPES or any(x.dtype != first.dtype for x in others):
        return False
    return first.stride(-1) == 1 and all(x.stride(-1) == 1 for x in others)


def address(x: Tensor | None) -> int:
    """0 stands for none."""
    return 0 if x is None else x.data_ptr()

"""What a check compares: a kernel's results, and those in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gpu_measure import poisoned
from torch import Tensor

# A kernel's results, and those in float64.
Pair = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
Check = Callable[[torch.dtype], Pair]


def run(op: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The kernel's result; memory that it allocates is filled with NaN first."""
    with poisoned():
        found = op(*arguments, **options)
    assert found is not None, "the kernel declined"
    return found

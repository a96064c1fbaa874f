"""Arguments of Mamba-2's scan, for batches of ``recurrent_cases``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


class Scan(NamedTuple):
    """The arguments of ``selective_scan2`` but for the state."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None

    def part(self, first: int, last: int) -> Scan:
        """Some of the tokens."""
        x, dt, b, c = (t[first:last] for t in (self.x, self.dt, self.B, self.C))
        return Scan(x, dt, self.A, b, c, self.D)

    def to(self, target: torch.device | str | torch.dtype) -> Scan:
        """All on a device, or of a dtype."""
        return Scan(*(None if t is None else t.to(target) for t in self))  # type: ignore[arg-type]


def scan_of(tokens: int, heads: tuple[int, int], dims: tuple[int, int], dtype: torch.dtype) -> Scan:
    """heads: and groups. dims: of a head, and of a group's B and C. All are views of wider rows."""
    (num_heads, groups), (width, size) = heads, dims
    sizes = [num_heads * width, groups * size, groups * size, 3]
    mixed = torch.randn(tokens, sum(sizes)).to(dtype)
    x, b, c, _ = mixed.split(sizes, 1)
    return Scan(
        x.unflatten(1, (num_heads, width)), torch.rand(tokens, num_heads + 1)[:, :num_heads],
        -3 * torch.rand(num_heads), b.unflatten(1, (groups, size)),
        c.unflatten(1, (groups, size)), torch.randn(num_heads),
    )  # fmt: skip


def close(found: Tensor | None, expected: Tensor, dtype: torch.dtype) -> None:
    """Numbers are close, and NaN where they should be."""
    assert found is not None and found.dtype == dtype and found.is_contiguous()
    assert torch.equal(found.isnan(), expected.isnan())
    error = (found.double() - expected).nan_to_num().abs().max()
    assert error <= TOLERANCE[dtype] * max(1.0, float(expected.nan_to_num().abs().max()))


def channels_of(tokens: int, channels: int, size: int, dtype: torch.dtype) -> Scan:
    """The arguments of ``selective_scan``; all are views of wider rows."""
    mixed = torch.randn(tokens, channels + 2 * size + 3).to(dtype)
    x, b, c, _ = mixed.split([channels, size, size, 3], 1)
    steps = torch.rand(tokens, channels + 1)[:, :channels]
    return Scan(x, steps, -3 * torch.rand(channels, size), b, c, torch.randn(channels))

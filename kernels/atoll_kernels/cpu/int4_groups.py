"""4-bit weights in groups of inputs that share a scale and a zero: how floats become codes.

``weight[n, k] = (codes[n, k] - 8) * scales[n, k // group] + zeros[n, k // group]``

Scales and zeros are bfloat16, or bytes that bfloat16 factors of the output multiply. With groups of
32 a weight takes 5 bits, as in GGUF's Q4_1, or 4.5, as in its Q4_K, and 32 / in_features for the
factors. Groups of 64 and bfloat16 would take 4.5 too, and raise the perplexity of SmolLM2, whose
weights come in groups of 32, by 38%.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Weights quantised at a time: what is made of them stays in the caches.
_SLICE = 1 << 20
# How often scales and zeros are fitted to the codes, and codes to them: twice takes 12% off the
# squared error of normal weights, a third time 1.5% more.
_FITS = 2
_LEAST = 1e-12


class Groups(NamedTuple):
    """Codes (out_features, in_features) uint8, 0..15; scales and zeros (out_features, groups).

    Those are float32 values that bfloat16 holds exactly, or uint8 and int8 to be multiplied by
    ``factors`` (out_features, 2) bfloat16.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    factors: Tensor | None = None


def quantize(weight: Tensor, size: int) -> Groups:
    """weight: (out_features, in_features) floats. Scales and zeros in bfloat16."""
    parts = [_fitted(values, _Bfloat16()) for values in _slices(weight, size)]
    codes, scales, zeros = (torch.cat(found) for found in zip(*parts, strict=True))
    return Groups(codes, scales, zeros)


def quantize_in_bytes(weight: Tensor, size: int) -> Groups:
    """weight: (out_features, in_features) floats. Scales and zeros in bytes."""
    parts = []
    for values in _slices(weight, size):
        grid = _Bytes()
        codes, scales, zeros = _fitted(values, grid)
        parts.append((codes, *grid.as_bytes(scales, zeros)))
    codes, scales, zeros, factors = (torch.cat(found) for found in zip(*parts, strict=True))
    return Groups(codes, scales, zeros, factors)


class _Bfloat16:
    """Rounds scales and zeros (outputs, groups, 1) to bfloat16."""

    def fit(self, scales: Tensor, zeros: Tensor) -> None:
        """Nothing depends on how large they are."""

    def scales(self, wanted: Tensor) -> Tensor:
        return _rounded(wanted.clamp_min(_LEAST))

    def zeros(self, wanted: Tensor) -> Tensor:
        return _rounded(wanted)


class _Bytes:
    """Rounds scales and zeros (outputs, groups, 1) to bytes times factors of the output."""

    def fit(self, scales: Tensor, zeros: Tensor) -> None:
        """Chooses the factors for scales and zeros that are about so large."""
        self._zero = _rounded((zeros.abs().amax(1, keepdim=True) / 127).clamp_min(_LEAST))
        # Codes of so wide a step can make up for what rounding takes from the zero.
        self._least = self._zero / 15
        self._scale = _rounded(torch.maximum(scales.amax(1, keepdim=True), self._least) / 255)

    def scales(self, wanted: Tensor) -> Tensor:
        whole = (torch.maximum(wanted, self._least) / self._scale).round_().clamp_(1, 255)
        return whole.mul_(self._scale)

    def zeros(self, wanted: Tensor) -> Tensor:
        return (wanted / self._zero).round_().clamp_(-127, 127).mul_(self._zero)

    def as_bytes(self, scales: Tensor, zeros: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of rounded ones (outputs, groups): uint8 and int8, and the factors (outputs, 2)."""
        factors = torch.cat([self._scale, self._zero], dim=2).squeeze(1)
        whole_scales, whole_zeros = scales / factors[:, :1], zeros / factors[:, 1:]
        return (
            whole_scales.round_().to(torch.uint8),
            whole_zeros.round_().to(torch.int8),
            factors.to(torch.bfloat16),
        )


def _fitted(values: Tensor, grid: _Bfloat16 | _Bytes) -> tuple[Tensor, Tensor, Tensor]:
    """16 levels from the least to the largest value of each group, then least squares.

    values: (outputs, groups, size). Returns codes (outputs, inputs) uint8, and scales and zeros
    (outputs, groups) of the grid.
    """
    size = values.shape[2]
    low, high = values.aminmax(dim=2, keepdim=True)
    scales, middles = (high - low) / 15, (low + high) / 2
    grid.fit(scales, middles + scales / 2)
    scales = grid.scales(scales)
    zeros = grid.zeros(middles + scales / 2)
    codes = _codes(values, scales, zeros)
    means = values.mean(2, keepdim=True)
    for _ in range(_FITS):
        # The line through the points (code, value): its slope and its intercept.
        middles = codes.mean(2, keepdim=True)
        products = (codes * values).sum(2, keepdim=True) - size * middles * means
        squares = codes.norm(dim=2, keepdim=True).square_() - size * middles.square()
        scales = grid.scales(products / squares.clamp_min(0.5))
        zeros = grid.zeros(means - scales * middles)
        codes = _codes(values, scales, zeros)
    return codes.add_(8).to(torch.uint8).flatten(1), scales.squeeze(2), zeros.squeeze(2)


def _codes(values: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """-8..7, the nearest."""
    return torch.addcmul(-zeros / scales, values, 1 / scales).round_().clamp_(-8, 7)


def _slices(weight: Tensor, size: int) -> Iterator[Tensor]:
    """(outputs, groups, size) float32, some outputs at a time."""
    for part in weight.split(max(1, _SLICE // weight.shape[1])):
        yield part.float().unflatten(1, (-1, size))


def _rounded(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16).float()

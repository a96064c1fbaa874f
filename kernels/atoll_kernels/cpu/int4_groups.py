"""Quantization to 4 bits, in groups of inputs that share a scale and a zero.

``weight[n, k] = (codes[n, k] - 8) * scales[n, k // group] + zeros[n, k // group]``

Scales and zeros are bfloat16, or bytes times bfloat16 factors of the output. With groups of 32 a
weight takes 5 bits, as in GGUF's Q4_1, or 4.5, as in its Q4_K, plus 32 / in_features for the
factors. Groups of 64 with bfloat16 scales would take 4.5 bits as well, but raise the perplexity of
SmolLM2, whose weights come in groups of 32, by 38%.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Weights quantized at a time, so that intermediate results stay in the caches.
_SLICE = 1 << 20
# Iterations of fitting scales and zeros to the codes, and codes to them. For normal weights, two
# reduce the squared error by 12%, a third one by another 1.5%.
_FITS = 2
_LEAST = 1e-12


class Groups(NamedTuple):
    """A quantized weight: see the formula.

    codes: (out_features, in_features), 0..15.
    scales, zeros: (out_features, groups) floats, or uint8 and int8 that are multiplied by factors.
    factors: (out_features, 2) bfloat16, of scales and of zeros.
    order: (in_features,) which inputs the codes are of, if groups are not of consecutive inputs.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    factors: Tensor | None = None
    order: Tensor | None = None

    @property
    def size(self) -> int:
        """Inputs in a group."""
        return self.codes.shape[1] // self.scales.shape[1]


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
        """Nothing depends on their range."""

    def scales(self, wanted: Tensor) -> Tensor:
        return _rounded(wanted.clamp_min(_LEAST))

    def zeros(self, wanted: Tensor) -> Tensor:
        return _rounded(wanted)


class _Bytes:
    """Rounds scales and zeros (outputs, groups, 1) to bytes times factors per output."""

    def fit(self, scales: Tensor, zeros: Tensor) -> None:
        """Chooses the factors for scales and zeros of about this range."""
        self._zero = _rounded((zeros.abs().amax(1, keepdim=True) / 127).clamp_min(_LEAST))
        # With steps of at least this width, codes can compensate for the rounding of the zero.
        self._least = self._zero / 15
        self._scale = _rounded(torch.maximum(scales.amax(1, keepdim=True), self._least) / 255)

    def scales(self, wanted: Tensor) -> Tensor:
        whole = (torch.maximum(wanted, self._least) / self._scale).round_().clamp_(1, 255)
        return whole.mul_(self._scale)

    def zeros(self, wanted: Tensor) -> Tensor:
        return (wanted / self._zero).round_().clamp_(-127, 127).mul_(self._zero)

    def as_bytes(self, scales: Tensor, zeros: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rounded scales and zeros (outputs, groups) as uint8 and int8; factors (outputs, 2)."""
        factors = torch.cat([self._scale, self._zero], dim=2).squeeze(1)
        whole_scales, whole_zeros = scales / factors[:, :1], zeros / factors[:, 1:]
        return (
            whole_scales.round_().to(torch.uint8),
            whole_zeros.round_().to(torch.int8),
            factors.to(torch.bfloat16),
        )


def _fitted(values: Tensor, grid: _Bfloat16 | _Bytes) -> tuple[Tensor, Tensor, Tensor]:
    """16 levels from the smallest to the largest value of each group, refined by least squares.

    values: (outputs, groups, size). Returns codes (outputs, inputs) uint8, and scales and zeros
    (outputs, groups) on the grid.
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
        # Linear regression of values on codes: slope and intercept.
        middles = codes.mean(2, keepdim=True)
        products = (codes * values).sum(2, keepdim=True) - size * middles * means
        squares = codes.norm(dim=2, keepdim=True).square_() - size * middles.square()
        scales = grid.scales(products / squares.clamp_min(0.5))
        zeros = grid.zeros(means - scales * middles)
        codes = _codes(values, scales, zeros)
    return codes.add_(8).to(torch.uint8).flatten(1), scales.squeeze(2), zeros.squeeze(2)


def _codes(values: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """The nearest codes, -8..7."""
    return torch.addcmul(-zeros / scales, values, 1 / scales).round_().clamp_(-8, 7)


def _slices(weight: Tensor, size: int) -> Iterator[Tensor]:
    """Some outputs at a time, (outputs, groups, size) float32."""
    for part in weight.split(max(1, _SLICE // weight.shape[1])):
        yield part.float().unflatten(1, (-1, size))


def _rounded(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16).float()

"""Linear layers with 4-bit weights on CPU by torch's kernel, where there is no native one.

It takes scales and zeros of the dtype of x alone: 5 bits a weight with groups of 32, and 6 if x is
float32. See ``int4_groups`` for the formula.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS
from atoll_kernels.cpu.int4_groups import quantize
from atoll_kernels.linear import PackedLinear

GROUP_SIZES = (32, 64, 128, 256)
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(eq=False)
class TorchInt4(PackedLinear):
    """tensors: words of codes, and scales with zeros, as torch's kernel takes them.

    order: of the inputs, if they are not sorted by group.
    """

    group_size: int
    order: Tensor | None
    scheme = "int4"

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """See ``atoll_kernels.linear``."""
        words, scales_and_zeros = self.tensors
        rows = x.contiguous() if self.order is None else x.index_select(1, self.order)
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, words, self.group_size, scales_and_zeros
        )
        if self.bias is not None:
            out.add_(self.bias)
        return out if activation is None else ACTIVATIONS[activation](out)


def pack(weight: Tensor, bias: Tensor | None, group_size: int) -> PackedLinear | None:
    """Quantises (out_features, in_features) floats; None for shapes that the kernel cannot take."""
    out_features, in_features = weight.shape
    if not _fits(out_features, in_features, group_size) or weight.dtype not in _FLOATS:
        return None
    codes, scales, zeros, _ = quantize(weight, group_size)
    return _packed(codes, scales.t(), zeros.t(), group_size, bias, weight.dtype, None)


class Arranged(NamedTuple):
    """A checkpoint's codes (out_features, in_features) with their inputs sorted by group.

    scales, zeros: (out_features, groups), as in the formula. order: of the inputs, if they
    were not sorted.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    order: Tensor | None


def arrange(codes: Tensor, zeros: Tensor, scales: Tensor, groups: Tensor) -> Arranged | None:
    """Arguments as in ``atoll_kernels.pack_int4``; None for groups of unequal sizes."""
    in_features = len(codes)
    size, rest = divmod(in_features, len(scales))
    order = groups.argsort(stable=True)
    expected = torch.arange(in_features) // max(size, 1)
    if rest or not torch.equal(groups[order], expected):
        return None
    is_sorted = torch.equal(groups, expected)
    wide = scales.float()
    middle = (8 - zeros.float()) * wide
    sorted_codes = codes if is_sorted else codes[order]
    return Arranged(sorted_codes.t(), wide.t(), middle.t(), None if is_sorted else order)


def pack_arranged(found: Arranged, bias: Tensor | None, dtype: torch.dtype) -> PackedLinear | None:
    """For x of ``dtype``; None for shapes and groups that the kernel cannot take."""
    out_features, in_features = found.codes.shape
    size = in_features // found.scales.shape[1]
    if not _fits(out_features, in_features, size) or dtype not in _FLOATS:
        return None
    return _packed(found.codes, found.scales.t(), found.zeros.t(), size, bias, dtype, found.order)


def _fits(out_features: int, in_features: int, group_size: int) -> bool:
    """Whether torch's kernel takes the shape."""
    return out_features % 16 == 0 and group_size in GROUP_SIZES and in_features % group_size == 0


def _packed(
    codes: Tensor, scales: Tensor, zeros: Tensor, group_size: int, bias: Tensor | None,
    dtype: torch.dtype, order: Tensor | None,
) -> PackedLinear:  # fmt: skip
    """codes: (out_features, in_features). scales, zeros: (groups, out_features)."""
    words = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int().contiguous(), 1)
    both = torch.stack([scales.to(dtype), zeros.to(dtype)], dim=-1).contiguous()
    bias = None if bias is None else bias.to(dtype, copy=True)
    out_features, in_features = codes.shape
    return TorchInt4(in_features, out_features, (words, both), bias, group_size, order)

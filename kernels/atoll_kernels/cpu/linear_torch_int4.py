"""Linear layers with 4-bit weights by torch's CPU kernel, where there is no native one.

Scales and zeros must have the dtype of x: 5 bits a weight with groups of 32, or 6 if x is float32.
See ``int4_groups`` for the formula.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS
from atoll_kernels.cpu.int4_groups import Groups, quantize
from atoll_kernels.linear import PackedLinear

GROUP_SIZES = (32, 64, 128, 256)
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(eq=False)
class TorchInt4(PackedLinear):
    """tensors: packed codes, and scales with zeros, in the layout of torch's kernel.

    order: see ``Groups``.
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
    """Quantizes (out_features, in_features) floats; None for shapes that the kernel cannot take."""
    out_features, in_features = weight.shape
    if not _fits(out_features, in_features, group_size, weight.dtype):
        return None
    return pack_groups(quantize(weight, group_size), bias, weight.dtype)


def pack_groups(groups: Groups, bias: Tensor | None, dtype: torch.dtype) -> PackedLinear | None:
    """Packs groups with float scales for x of ``dtype``; None if the kernel cannot take them."""
    out_features, in_features = groups.codes.shape
    if not _fits(out_features, in_features, groups.size, dtype):
        return None
    words = torch.ops.aten._convert_weight_to_int4pack_for_cpu(groups.codes.int().contiguous(), 1)
    both = torch.stack([groups.scales.t().to(dtype), groups.zeros.t().to(dtype)], dim=-1)
    tensors, bias = (words, both.contiguous()), None if bias is None else bias.to(dtype, copy=True)
    return TorchInt4(in_features, out_features, tensors, bias, groups.size, groups.order)


def _fits(out_features: int, in_features: int, group_size: int, dtype: torch.dtype) -> bool:
    """Whether torch's kernel takes such a weight."""
    fits = out_features % 16 == 0 and group_size in GROUP_SIZES and in_features % group_size == 0
    return fits and dtype in _FLOATS

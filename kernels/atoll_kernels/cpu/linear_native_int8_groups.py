"""Linear layers with 8-bit weights in groups of inputs, by the native kernel for any machine.

Codes are converted in registers, and neither weights nor rows of x are rounded: the products are
those of the dequantized weights, in float32 or bfloat16. A weight takes 9 bits with groups of 32
inputs, and 10 with groups of 16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll_kernels.activation import BY_NAME
from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.linear_native_exact import NativeExact, loaded
from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import address

# A group has whole words of codes, and 256 inputs whole groups.
_GROUPS = (16, 32, 64, 128)


@dataclass(eq=False)
class NativeInt8Groups(NativeExact):
    """tensors: blocks of codes, see ``pack``, and scales (blocks, groups, outputs) float32.

    group: inputs that share a scale. bias: float32.
    """

    group: int
    scheme = "int8-groups"

    def _run(self, x: Tensor, activation: str | None, is_gated: bool) -> Tensor:
        weight, scales = self.tensors
        out = empty((x.shape[0], self.out_features // (1 + is_gated)), x.dtype)
        loaded().linear_int8_groups(
            x.dtype, x.data_ptr(), out.data_ptr(), weight.data_ptr(), scales.data_ptr(), 0,
            address(self.bias), x.shape[0], self.in_features, self.out_features, x.stride(0),
            self.group, 8, BY_NAME[activation], is_gated,
        )  # fmt: skip
        return out


def pack(codes: Tensor, scales: Tensor, bias: Tensor | None) -> NativeInt8Groups | None:
    """See ``atoll_kernels.pack_int8_groups``; None without native kernels, or for other groups.

    A word has four inputs of an output; the words of two vectors of outputs are adjacent.
    """
    native = library()
    out_features, in_features = codes.shape
    group = in_features // scales.shape[1] if scales.numel() else 0
    if native is None or group not in _GROUPS:
        return None
    block = 2 * native.width
    padding = (0, 0, 0, -out_features % block)
    words = F.pad(codes, padding).view(-1, block, in_features // 4, 4).transpose(1, 2).contiguous()
    steps = F.pad(scales.float(), padding).view(-1, block, in_features // group)
    wide = None if bias is None else bias.to(torch.float32, copy=True)
    tensors = (words, steps.transpose(1, 2).contiguous())
    return NativeInt8Groups(in_features, out_features, tensors, wide, group)

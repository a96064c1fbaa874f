"""Linear layers with MXFP4 weights by the native kernel, for any instruction set.

Codes are looked up in registers, and neither weights nor rows of x are rounded: the products are
those of the dequantized weights, in float32 or bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from atoll_kernels.activation import BY_NAME
from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.linear_native_exact import NativeExact, loaded
from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import address
from atoll_kernels.linear import MXFP4_GROUP


@dataclass(eq=False)
class NativeMxfp4(NativeExact):
    """tensors: blocks of codes, see ``pack``, and scales (blocks, groups, outputs) uint8.

    bias: float32.
    """

    scheme = "mxfp4"

    def _run(self, x: Tensor, activation: str | None, is_gated: bool) -> Tensor:
        weight, scales = self.tensors
        out = empty((x.shape[0], self.out_features // (1 + is_gated)), x.dtype)
        loaded().linear_mxfp4(
            x.dtype, x.data_ptr(), out.data_ptr(), weight.data_ptr(), scales.data_ptr(), 0,
            address(self.bias), x.shape[0], self.in_features, self.out_features, x.stride(0),
            MXFP4_GROUP, 4, BY_NAME[activation], is_gated,
        )  # fmt: skip
        return out


def pack(blocks: Tensor, scales: Tensor, bias: Tensor | None) -> NativeMxfp4 | None:
    """See ``atoll_kernels.pack_mxfp4``; None without native kernels.

    Of every 8 inputs of an output the first, third, fifth and seventh are the lower half of a word,
    the others the upper half. The words of two vectors of outputs are adjacent.
    """
    native = library()
    if native is None or not blocks.numel():
        return None
    out_features, num_groups, _ = blocks.shape
    block = 2 * native.width
    padding = -out_features % block
    # Two bytes have the inputs of two pairs.
    pairs = F.pad(blocks.flatten(1), (0, 0, 0, padding)).view(-1, block, 4 * num_groups, 2, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    words = F.pad(first & 15 | second << 4, (0, 2))
    words[..., 2:] = first >> 4 | second & 0xF0
    powers = F.pad(scales, (0, 0, 0, padding)).view(-1, block, num_groups)
    tensors = (words.transpose(1, 2).contiguous(), powers.transpose(1, 2).contiguous())
    wide = None if bias is None else bias.float().clone()
    return NativeMxfp4(MXFP4_GROUP * num_groups, out_features, tensors, wide)

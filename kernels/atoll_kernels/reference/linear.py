"""Linear layers in plain torch; quantized weights have 8 bits, dequantized in every call."""

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS
from atoll_kernels.linear import E2M1, PackedLinear, mxfp4_codes, quantize_int8
from atoll_kernels.linear import pack_linear as pack


class TorchDense(PackedLinear):
    """tensors: the weight (out_features, in_features) as checkpoints have it."""

    scheme = "dense"

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        out = F.linear(x, self.tensors[0], self.bias)
        return out if activation is None else ACTIVATIONS[activation](out)


class TorchInt8(PackedLinear):
    """tensors: codes (out_features, in_features) int8, and scales (out_features,) float32."""

    scheme = "int8"

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        codes, scales = self.tensors
        out = F.linear(x, codes.to(x.dtype)) * scales.to(x.dtype)
        out = out if self.bias is None else out + self.bias
        return out if activation is None else ACTIVATIONS[activation](out)


class TorchMxfp4(PackedLinear):
    """tensors: blocks and scales, see ``atoll_kernels.pack_mxfp4``."""

    scheme = "mxfp4"

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        out = F.linear(x, self._weight(x.dtype), self.bias)
        return out if activation is None else ACTIVATIONS[activation](out)

    def _weight(self, dtype: torch.dtype) -> Tensor:
        """(out_features, in_features); powers of two make bfloat16 and float32 exact."""
        blocks, scales = self.tensors
        values = torch.tensor(E2M1, device=blocks.device)[mxfp4_codes(blocks).int()]
        powers = torch.ldexp(torch.ones_like(scales, dtype=torch.float32), scales.int() - 127)
        grouped: Tensor = values.unflatten(1, (scales.shape[1], -1)) * powers[..., None]
        return grouped.flatten(1).to(dtype)


def pack_linear(weight: Tensor, bias: Tensor | None, scheme: str, group_size: int) -> PackedLinear:
    """Packs "int4" as int8 as well: unpacking 4 bits in torch costs more than it saves."""
    out_features, in_features = weight.shape
    if scheme == "dense":
        return TorchDense(in_features, out_features, (weight,), bias)
    return TorchInt8(in_features, out_features, quantize_int8(weight), bias)


def pack_int4(
    codes: Tensor, zeros: Tensor, scales: Tensor, groups: Tensor, bias: Tensor | None,
    dtype: torch.dtype,
) -> PackedLinear:  # fmt: skip
    weight = scales.float()[groups] * (codes - zeros[groups]).float()
    return pack(weight.t().contiguous().to(dtype), bias)


def pack_int8_groups(
    codes: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> PackedLinear:
    weight = codes.unflatten(1, (scales.shape[1], -1)) * scales.float()[..., None]
    return pack(weight.flatten(1).to(dtype), bias)


def pack_mxfp4(
    blocks: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> PackedLinear:
    out_features, num_groups, half = blocks.shape
    return TorchMxfp4(2 * half * num_groups, out_features, (blocks, scales), bias)

"""Linear layers in plain torch: 8-bit weights are widened at every call; 4-bit ones become 8."""

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS, gated_activation
from atoll_kernels.linear import PackedLinear
from atoll_kernels.linear import linear as any_linear
from atoll_kernels.linear import pack_linear as pack


def pack_linear(weight: Tensor, bias: Tensor | None, scheme: str, group_size: int) -> PackedLinear:
    """Where 4 bits are asked for, 8 are kept: unpacking them in torch costs more than it saves."""
    out_features, in_features = weight.shape
    if scheme == "dense":
        return PackedLinear("torch", scheme, in_features, out_features, (weight,), bias)
    scales = weight.float().abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    codes = (weight / scales.unsqueeze(1)).round().to(torch.int8)
    return PackedLinear("torch-int8", "int8", in_features, out_features, (codes, scales), bias)


def pack_int4(
    codes: Tensor, zeros: Tensor, scales: Tensor, groups: Tensor, bias: Tensor | None,
    dtype: torch.dtype,
) -> PackedLinear:  # fmt: skip
    weight = scales.float()[groups] * (codes - zeros[groups]).float()
    return pack(weight.t().contiguous().to(dtype), bias)


def linear(x: Tensor, packed: PackedLinear, activation: str | None) -> Tensor | None:
    if packed.layout == "torch":
        out = F.linear(x, packed.tensors[0], packed.bias)
    elif packed.layout == "torch-int8":
        codes, scales = packed.tensors
        out = F.linear(x, codes.to(x.dtype)) * scales.to(x.dtype)
        out = out if packed.bias is None else out + packed.bias
    else:
        return None
    return out if activation is None else ACTIVATIONS[activation](out)


def gated_linear(x: Tensor, packed: PackedLinear, activation: str) -> Tensor:
    return gated_activation(any_linear(x, packed), activation)

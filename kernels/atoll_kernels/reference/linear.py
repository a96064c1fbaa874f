"""Linear layers in plain torch: the weight stays as it is, whatever the scheme asked for."""

import torch.nn.functional as F
from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS
from atoll_kernels.linear import PackedLinear


def pack_linear(
    weight: Tensor, bias: Tensor | None, scheme: str, group_size: int
) -> PackedLinear | None:
    if scheme != "dense":
        return None
    out_features, in_features = weight.shape
    return PackedLinear("torch", scheme, in_features, out_features, (weight,), bias)


def linear(x: Tensor, packed: PackedLinear, activation: str | None) -> Tensor | None:
    if packed.layout != "torch":
        return None
    out = F.linear(x, packed.tensors[0], packed.bias)
    return out if activation is None else ACTIVATIONS[activation](out)

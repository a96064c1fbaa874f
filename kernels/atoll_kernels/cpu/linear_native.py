"""Linear layers in 8 bits by the native kernel: rows are quantised, multiplied, scaled in one call.

The codes are those of ``linear_int8``; what is saved is everything around the product: torch needs
seven passes over the rows before it, and three over float32 sums after it.
"""

import torch
from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS
from atoll_kernels.cpu.activation import KINDS
from atoll_kernels.cpu.linear_int8 import quantize_weight
from atoll_kernels.cpu.native import library
from atoll_kernels.linear import PackedLinear

LAYOUT = "native-int8"
_DTYPES = (torch.float32, torch.bfloat16)
_NO_ACTIVATION = -1


def pack(weight: Tensor, bias: Tensor | None) -> PackedLinear | None:
    """Quantises (out_features, in_features) floats by output; None without VNNI, where oneDNN is
    faster."""
    native = library()
    if native is None or not native.has_vnni or weight.dtype not in _DTYPES:
        return None
    codes, scales = quantize_weight(weight)
    return pack_codes(codes, scales, bias, native.width)


def pack_codes(codes: Tensor, scales: Tensor, bias: Tensor | None, width: int) -> PackedLinear:
    """Panels of ``width`` outputs, four inputs of an output side by side.

    codes: (out_features, in_features) int8. scales: (out_features,) float32.
    """
    out_features, in_features = codes.shape
    rows, columns = -out_features % width, -in_features % 4
    padded = torch.nn.functional.pad(codes, (0, columns, 0, rows))
    panels = padded.view(-1, width, padded.shape[1] // 4, 4).transpose(1, 2).contiguous()
    sums = padded.sum(1, dtype=torch.int32) * 128
    wide = None if bias is None else torch.nn.functional.pad(bias.float(), (0, rows))
    tensors = (panels, torch.nn.functional.pad(scales, (0, rows)), sums)
    return PackedLinear(LAYOUT, "int8", in_features, out_features, tensors, wide)


def linear(x: Tensor, packed: PackedLinear, activation: str | None) -> Tensor:
    """See ``atoll_kernels.linear``."""
    native = library()
    assert native is not None, "pack() found it"
    if x.dtype not in _DTYPES or x.stride(1) != 1:
        return linear(x.float().contiguous(), packed, activation).to(x.dtype)
    weight, scales, sums = packed.tensors
    kind = _NO_ACTIVATION if activation is None else KINDS.get(activation, _NO_ACTIVATION)
    out = torch.empty(x.shape[0], packed.out_features, dtype=x.dtype)
    native.int8(
        x.data_ptr(), weight.data_ptr(), scales.data_ptr(), sums.data_ptr(),
        0 if packed.bias is None else packed.bias.data_ptr(), out.data_ptr(),
        x.shape[0], packed.in_features, packed.out_features, x.stride(0), kind,
        x.dtype == torch.bfloat16, torch.get_num_threads(),
    )  # fmt: skip
    is_left = activation is not None and kind == _NO_ACTIVATION
    return ACTIVATIONS[activation](out) if is_left and activation else out

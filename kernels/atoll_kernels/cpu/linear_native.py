"""Linear layers by the native kernel: float32, bfloat16, and 8 bits; scales, bias and activation in
the same call.

At hundreds of rows it is as fast as oneDNN, and up to twice as fast at a few, where a call costs
more than its work. In 8 bits, rows are quantised as in ``linear_int8``, without torch's seven
passes over the rows before oneDNN's product and three over the float32 sums after it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS
from atoll_kernels.cpu.activation import KINDS
from atoll_kernels.cpu.linear_int8 import quantize_weight
from atoll_kernels.cpu.native import library
from atoll_kernels.linear import PackedLinear

LAYOUT = "native"
_DTYPES = (torch.float32, torch.bfloat16)
_NO_ACTIVATION = -1


def pack(weight: Tensor, bias: Tensor | None, scheme: str) -> PackedLinear | None:
    """Packs (out_features, in_features) floats, quantised by output for "int8".

    None where oneDNN is faster: without AVX-512, and its bfloat16 and VNNI instructions.
    """
    native = library()
    if native is None or weight.dtype not in _DTYPES or not weight.numel():
        return None
    if scheme == "int8":
        if not native.has_vnni:
            return None
        codes, scales = quantize_weight(weight)
        return pack_codes(codes, scales, bias, native.width)
    has_products = native.has_bf16 if weight.dtype == torch.bfloat16 else native.width == 16
    is_whole = weight.shape[1] * weight.itemsize % 4 == 0
    return pack_floats(weight, bias, native.width) if has_products and is_whole else None


def pack_floats(weight: Tensor, bias: Tensor | None, width: int) -> PackedLinear:
    """Panels of ``width`` outputs; two bfloat16 inputs of an output side by side."""
    out_features, in_features = weight.shape
    panels = _panels(weight, width)
    extra = {"dtype": weight.dtype}
    bias = _padded_bias(bias, out_features, width)
    return PackedLinear(LAYOUT, "dense", in_features, out_features, (panels,), bias, extra)


def pack_codes(codes: Tensor, scales: Tensor, bias: Tensor | None, width: int) -> PackedLinear:
    """Panels of ``width`` outputs, four inputs of an output side by side.

    codes: (out_features, in_features) int8. scales: (out_features,) float32.
    """
    out_features, in_features = codes.shape
    rows = -out_features % width
    panels = _panels(F.pad(codes, (0, -in_features % 4)), width)
    sums = F.pad(codes.sum(1, dtype=torch.int32) * 128, (0, rows))
    tensors = (panels, F.pad(scales, (0, rows)), sums)
    bias = _padded_bias(bias, out_features, width)
    return PackedLinear(LAYOUT, "int8", in_features, out_features, tensors, bias)


def linear(x: Tensor, packed: PackedLinear, activation: str | None) -> Tensor:
    """See ``atoll_kernels.linear``."""
    native = library()
    assert native is not None, "pack() found it"
    is_int8 = packed.scheme == "int8"
    dtype = x.dtype if is_int8 and x.dtype in _DTYPES else packed.extra.get("dtype", torch.float32)
    rows = x if x.dtype == dtype else x.to(dtype)
    if rows.stride(1) != 1 or not is_int8 and (rows.data_ptr() | rows.stride(0) * 2) % 4:
        rows = rows.contiguous()  # whose words are aligned
    weight, *scaling = packed.tensors
    scales, sums = (t.data_ptr() for t in scaling) if is_int8 else (0, 0)
    kind = _NO_ACTIVATION if activation is None else KINDS.get(activation, _NO_ACTIVATION)
    out = torch.empty(x.shape[0], packed.out_features, dtype=dtype)
    native.linear(
        rows.data_ptr(), weight.data_ptr(), scales, sums,
        0 if packed.bias is None else packed.bias.data_ptr(), out.data_ptr(),
        x.shape[0], packed.in_features, packed.out_features, rows.stride(0), kind, is_int8,
        dtype == torch.bfloat16, torch.get_num_threads(),
    )  # fmt: skip
    if activation is not None and kind == _NO_ACTIVATION:
        out = ACTIVATIONS[activation](out)
    return out if dtype == x.dtype else out.to(x.dtype)


def _panels(weight: Tensor, width: int) -> Tensor:
    """(out_features, in_features) -> (panels, words, width, inputs of a word)."""
    out_features, in_features = weight.shape
    per_word = 4 // weight.itemsize
    shape = (-(-out_features // width), in_features // per_word, width, per_word)
    panels = torch.zeros(shape, dtype=weight.dtype)
    whole = out_features // width
    rows = weight.unflatten(1, (-1, per_word))
    panels[:whole] = rows[: whole * width].unflatten(0, (whole, width)).transpose(1, 2)
    if out_features % width:
        panels[whole, :, : out_features % width] = rows[whole * width :].transpose(0, 1)
    return panels


def _padded_bias(bias: Tensor | None, out_features: int, width: int) -> Tensor | None:
    """float32, and a copy: one that is mapped from a file would keep all of the file mapped."""
    return None if bias is None else F.pad(bias.float(), (0, -out_features % width)).clone()

"""Dense linear layers by the native kernel: product, bias and activation in one call.

At hundreds of rows it is as fast as oneDNN, and up to twice as fast at a few, where a call costs
more than its work.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS
from atoll_kernels.cpu.activation import KINDS
from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.native import library
from atoll_kernels.linear import PackedLinear

LAYOUT = "native"
_NO_ACTIVATION = -1


def pack(weight: Tensor, bias: Tensor | None) -> PackedLinear | None:
    """Packs (out_features, in_features) floats.

    None where oneDNN is faster: without AVX-512, and its instructions for bfloat16.
    """
    native = library()
    if native is None or not weight.numel():
        return None
    if weight.dtype == torch.bfloat16:
        is_fast = native.has_bf16 and weight.shape[1] % 2 == 0
    else:
        is_fast = weight.dtype == torch.float32 and native.width == 16
    return pack_floats(weight, bias, native.width) if is_fast else None


def pack_floats(weight: Tensor, bias: Tensor | None, width: int) -> PackedLinear:
    """Panels of ``width`` outputs; two bfloat16 inputs of an output side by side."""
    out_features, in_features = weight.shape
    panels = _panels(weight, width)
    # Copied: a bias that is mapped from a file would keep all of the file mapped.
    wide = None if bias is None else F.pad(bias.float(), (0, -out_features % width)).clone()
    extra = {"dtype": weight.dtype}
    return PackedLinear(LAYOUT, "dense", in_features, out_features, (panels,), wide, extra)


def linear(x: Tensor, packed: PackedLinear, activation: str | None) -> Tensor:
    """See ``atoll_kernels.linear``."""
    native = library()
    assert native is not None, "pack() found it"
    dtype = packed.extra["dtype"]
    if x.dtype is not dtype:
        return linear(x.to(dtype), packed, activation).to(x.dtype)
    kind = _NO_ACTIVATION if activation is None else KINDS.get(activation, _NO_ACTIVATION)
    out = _run(x, packed, kind, is_gated=False)
    if activation is not None and kind == _NO_ACTIVATION:
        return ACTIVATIONS[activation](out)
    return out


def gated_linear(x: Tensor, packed: PackedLinear, activation: str) -> Tensor | None:
    """See ``atoll_kernels.gated_linear``; None unless both halves are whole pairs of panels.

    Tiles finish a product beside the next one: with them, halves are not in registers together.
    """
    native = library()
    assert native is not None, "pack() found it"
    if native.has_tiles or x.dtype is not packed.extra["dtype"] or activation not in KINDS:
        return None
    if packed.out_features % (4 * native.width):
        return None
    return _run(x, packed, KINDS[activation], is_gated=True)


def _run(x: Tensor, packed: PackedLinear, kind: int, is_gated: bool) -> Tensor:
    native = library()
    assert native is not None, "pack() found it"
    # Contiguous rows begin at whole words, which the kernel reads.
    rows = x if x.is_contiguous() and x.data_ptr() % 4 == 0 else _aligned(x)
    num_rows, in_features = x.shape
    out = empty((num_rows, packed.out_features // (1 + is_gated)), x.dtype)
    bias = 0 if packed.bias is None else packed.bias.data_ptr()
    native.linear(
        rows.data_ptr(), packed.tensors[0].data_ptr(), bias, out.data_ptr(), num_rows, in_features,
        out.shape[1], in_features, kind, is_gated, x.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )  # fmt: skip
    return out


def _aligned(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


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

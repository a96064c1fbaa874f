"""Dense linear layers by the native kernel: product, bias and activation in one call.

It is as fast as oneDNN at hundreds of rows, and up to twice as fast at a few, where the overhead of
a call exceeds its work.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll_kernels.activation import BY_NAME, Activation
from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import address
from atoll_kernels.cpu.native.library import Library
from atoll_kernels.linear import PackedLinear


@dataclass(eq=False)
class NativeDense(PackedLinear):
    """tensors: panels, see ``_panels``. bias: float32, for whole panels. dtype: of the weights."""

    dtype: torch.dtype
    scheme = "dense"

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """See ``atoll_kernels.linear``."""
        if x.dtype is not self.dtype:
            return self.forward(x.to(self.dtype), activation).to(x.dtype)
        return self._run(x, BY_NAME[activation], is_gated=False)

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """See ``atoll_kernels.gated_linear``; two kernels unless halves are whole pairs of panels.

        With AMX the epilogue of a product overlaps the next product, so the two halves are never in
        registers together.
        """
        native = _library()
        is_fused = not native.has_tiles and self.out_features % (4 * native.width) == 0
        if not is_fused or x.dtype is not self.dtype:
            return super().gated(x, activation)
        return self._run(x, BY_NAME[activation], is_gated=True)

    def _run(self, x: Tensor, kind: Activation, is_gated: bool) -> Tensor:
        # The kernel reads whole words, so rows must be contiguous and aligned.
        is_aligned = x.is_contiguous() and x.data_ptr() % 4 == 0
        rows = x if is_aligned else x.clone(memory_format=torch.contiguous_format)
        num_rows, in_features = x.shape
        out = empty((num_rows, self.out_features // (1 + is_gated)), x.dtype)
        _library().linear(
            x.dtype, rows.data_ptr(), self.tensors[0].data_ptr(), address(self.bias),
            out.data_ptr(), num_rows, in_features, out.shape[1], in_features, kind, is_gated,
        )  # fmt: skip
        return out


def pack(weight: Tensor, bias: Tensor | None) -> PackedLinear | None:
    """Packs (out_features, in_features) floats.

    None where oneDNN is faster: without AVX-512 or, for bfloat16, without its instructions.
    """
    native = library()
    if native is None or not weight.numel():
        return None
    if weight.dtype == torch.bfloat16:
        is_fast = native.has_bf16 and weight.shape[1] % 2 == 0
    else:
        is_fast = weight.dtype == torch.float32 and native.width == 16
    return pack_floats(weight, bias, native.width) if is_fast else None


def pack_floats(weight: Tensor, bias: Tensor | None, width: int) -> NativeDense:
    """Packs into panels of ``width`` outputs; two bfloat16 inputs of an output are adjacent."""
    out_features, in_features = weight.shape
    panels = _panels(weight, width)
    # A copy: a view of a memory-mapped file would keep the whole file mapped.
    wide = None if bias is None else F.pad(bias.float(), (0, -out_features % width)).clone()
    return NativeDense(in_features, out_features, (panels,), wide, weight.dtype)


def _library() -> Library:
    found = library()
    assert found is not None, "pack() used it"
    return found


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

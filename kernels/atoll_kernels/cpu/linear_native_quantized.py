"""Linear layers with 8- or 4-bit weights by the native kernel, with 8-bit activations.

Rows of x have a scale for every group of inputs, not one for the row: the few large activations
that every language model has then reduce the precision of their own group only. 4-bit weights are
unpacked in registers, for any number of rows; with AMX, they are dequantized to bfloat16 for many
rows (native/src/linear_int4_amx.h).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll_kernels.activation import BY_NAME
from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.int4_groups import Groups, quantize_in_bytes
from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import DTYPES, address
from atoll_kernels.cpu.native.library import Library
from atoll_kernels.linear import PackedLinear, quantize_int8

# Inputs that share a scale in a row of x, with 8-bit weights; 4-bit weights determine the groups.
# Larger groups are a little faster and less exact: with up to 256, SmolLM2 loses 1.6%, not 1.0.
_INT8_GROUPS = (128, 96, 64)
# Whole rows of AMX tiles; with other groups, tiles are not used.
_TILED_GROUPS = (128, 64)
_INT4_GROUPS = (32, 64, 128)


@dataclass(eq=False)
class _NativeQuantized(PackedLinear):
    """group: inputs that share a scale. order: see ``Groups``."""

    group: int
    order: Tensor | None
    bits: ClassVar[int]

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """See ``atoll_kernels.linear``."""
        if x.dtype not in DTYPES:
            return self.forward(x.float(), activation).to(x.dtype)
        return self._run(x if x.stride(1) == 1 else x.contiguous(), activation, is_gated=False)

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """See ``atoll_kernels.gated_linear``; two kernels unless halves are whole blocks."""
        is_whole = self.out_features % (2 * _block()) == 0
        if not is_whole or _library().has_tiles or x.dtype not in DTYPES or x.stride(1) != 1:
            return super().gated(x, activation)
        return self._run(x, activation, is_gated=True)

    def _run(self, x: Tensor, activation: str | None, is_gated: bool) -> Tensor:
        if self.order is not None:
            x = x.index_select(1, self.order)
        weight, scales, *factors = self.tensors
        out = empty((x.shape[0], self.out_features // (1 + is_gated)), x.dtype)
        _library().linear_quantized(
            x.dtype, x.data_ptr(), out.data_ptr(), weight.data_ptr(), scales.data_ptr(),
            factors[0].data_ptr() if factors else 0, address(self.bias), x.shape[0],
            self.in_features, self.out_features, x.stride(0), self.group, self.bits,
            BY_NAME[activation], is_gated,
        )  # fmt: skip
        return out


class NativeInt8(_NativeQuantized):
    """tensors: blocks of bytes, see ``pack8``, and scales (out_features,) float32."""

    scheme, bits = "int8", 8


class NativeInt4(_NativeQuantized):
    """tensors: blocks of nibbles, see ``pack4``, scales with zeros, and their factors if bytes."""

    scheme, bits = "int4", 4


def pack_int8(weight: Tensor, bias: Tensor | None) -> PackedLinear | None:
    """Quantizes (out_features, in_features) floats by output; None without VNNI."""
    return pack8(*quantize_int8(weight), bias) if is_fast() else None


def pack_int4(weight: Tensor, bias: Tensor | None, group_size: int) -> PackedLinear | None:
    """Quantizes by groups of inputs; None without VNNI, or if groups do not divide the inputs."""
    if not is_fast() or group_size not in _INT4_GROUPS or weight.shape[1] % group_size:
        return None
    return pack4(quantize_in_bytes(weight, group_size), bias)


def pack_groups(groups: Groups, bias: Tensor | None) -> PackedLinear | None:
    """Packs codes of a checkpoint; None without VNNI or for groups of other sizes."""
    return pack4(groups, bias) if is_fast() and groups.size in _INT4_GROUPS else None


def is_fast() -> bool:
    """Whether there are instructions for 8-bit products; oneDNN and torch are faster without."""
    native = library()
    return native is not None and native.has_vnni


def pack8(codes: Tensor, scales: Tensor, bias: Tensor | None) -> NativeInt8:
    """codes: (out_features, in_features) int8. scales: (out_features,) float32."""
    block = _block()
    out_features, in_features = codes.shape
    native = library()
    has_tiles = native is not None and native.has_tiles
    sizes = _TILED_GROUPS if has_tiles else _INT8_GROUPS
    group = next((size for size in sizes if in_features % size == 0), sizes[-1])
    padding = (0, -in_features % group, 0, -out_features % block)
    padded = F.pad(codes.view(torch.uint8) ^ 128, padding)
    words = padded.view(-1, block, padded.shape[1] // 4, 4).transpose(1, 2).contiguous()
    tensors = (words, scales.float())
    return NativeInt8(in_features, out_features, tensors, _wide(bias), group, None)


def pack4(groups: Groups, bias: Tensor | None) -> NativeInt4:
    """Float scales and zeros are rounded to bfloat16."""
    block = _block()
    out_features, in_features = groups.codes.shape
    padded = F.pad(groups.codes.to(torch.uint8), (0, 0, 0, -out_features % block))
    halves = padded.view(-1, block, in_features // 8, 2, 4)
    words = (halves[..., 0, :] | halves[..., 1, :] << 4).transpose(1, 2).contiguous()
    tensors: tuple[Tensor, ...]
    if groups.factors is None:
        tensors = (_by_block(groups.scales, groups.zeros, torch.bfloat16),)
    else:
        of_scales, of_zeros = groups.factors[:, :1], groups.factors[:, 1:]
        tensors = (
            _by_block(groups.scales, groups.zeros.view(torch.uint8), torch.uint8),
            _by_block(of_scales, of_zeros, torch.bfloat16),
        )
    tensors = (words, *tensors)
    return NativeInt4(in_features, out_features, tensors, _wide(bias), groups.size, groups.order)


def _by_block(scales: Tensor, zeros: Tensor, dtype: torch.dtype) -> Tensor:
    """Interleaves two tensors (out_features, n) as (blocks, n, 2, block)."""
    block = _block()
    both = torch.stack([scales.to(dtype), zeros.to(dtype)])
    padded = F.pad(both, (0, 0, 0, -scales.shape[0] % block))
    return padded.view(2, -1, block, scales.shape[1]).permute(1, 3, 0, 2).contiguous()


def _library() -> Library:
    found = library()
    assert found is not None, "is_fast() used it"
    return found


def _block() -> int:
    """Outputs in a block of the packed weights: two vectors."""
    return 2 * _library().width


def _wide(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.to(torch.float32, copy=True)

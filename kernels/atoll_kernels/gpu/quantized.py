"""Linear layers with 8-bit and 4-bit weights, and dense ones for a single row.

Dense products of more rows use cuBLAS, through torch. So do quantized weights with very many rows,
after dequantizing them once: our own product does so for every tile of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import triton
from torch import Tensor

from atoll_kernels.gpu import launch
from atoll_kernels.gpu.activation import activate
from atoll_kernels.gpu.gemv import add_splits, dense_row, int4_row, num_splits, split_output
from atoll_kernels.gpu.kernels.matmul import dequantize_kernel, matmul_kernel
from atoll_kernels.gpu.tiles import Launch
from atoll_kernels.linear import MXFP4_GROUP, PackedLinear, group_order, quantize_int8
from atoll_kernels.reference.linear import TorchDense

# Inputs of a tile of MXFP4 weights at most.
_MXFP4_DEPTH = 128
# Rows from which dequantizing first saves more time than it takes.
_CUBLAS_ROWS = 256


class GpuDense(TorchDense):
    """tensors: the weight (out_features, in_features) as checkpoints have it."""

    bits, group, is_fp4 = 16, 0, False

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """See ``atoll_kernels.linear``."""
        row = None
        if x.shape[0] == 1:
            row = dense_row(x, self.tensors[0], self.bias, activation)
        return super().forward(x, activation) if row is None else row


@dataclass(eq=False)
class GpuQuantized(PackedLinear):
    """group: inputs that share a scale. order (in_features,) int32: of the inputs by group.

    is_fp4: whether 4 bits are E2M1 codes.
    """

    group: int
    order: Tensor | None
    bits: ClassVar[int]
    is_fp4: ClassVar[bool] = False

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """See ``atoll_kernels.linear``."""
        x = x if x.stride(-1) == 1 else x.contiguous()
        if x.shape[0] >= _CUBLAS_ROWS and x.dtype.itemsize == 2:
            weight = self.dequantized(x.dtype)
            plain = x @ weight if self.bias is None else torch.addmm(self.bias, x, weight)
            done = plain if activation is None else activate(plain, activation)
            assert done is not None, "contiguous, and no float64"
            return done
        out = torch.empty((x.shape[0], self.out_features), dtype=x.dtype, device=x.device)
        if out.numel():
            self._multiply(x, out, activation)
        return out

    def _multiply(self, x: Tensor, out: Tensor, activation: str | None) -> None:
        words, scales, zeros = self._operands()
        config = tile("mxfp4" if self.is_fp4 else "quantized", x, x.shape[0], self.group)
        rows = triton.cdiv(x.shape[0], config.block_m)
        columns = triton.cdiv(self.out_features, config.block_n)
        num_steps = self.in_features // config.block_k
        splits = num_splits(rows * columns, num_steps, waves=4 if rows == 1 else 1)
        target, epilogue = split_output(out, splits, self.bias, activation)
        matmul_kernel[(columns, rows, splits)](
            out=target, x=x, words=words, scales=scales, zeros=zeros,
            order=words if self.order is None else self.order, slots=words, tile_experts=words,
            tile_rows=words, shares=scales, num_rows=x.shape[0],
            num_columns=self.out_features, num_inputs=self.in_features, group=self.group,
            x_stride=x.stride(0), words_stride=0, scales_stride=0, divide=1, EXPERTS=False,
            ORDER=self.order is not None, SHARES=False, **epilogue, BITS=self.bits,
            FP4=self.is_fp4, HALF=x.dtype == torch.float16, SPLITS=splits,
            PRECISION=launch.precision(x.dtype), BLOCK_M=config.block_m, BLOCK_N=config.block_n,
            BLOCK_K=config.block_k, num_warps=config.num_warps, num_stages=config.num_stages,
        )  # fmt: skip
        if splits > 1:
            add_splits(out, target, self.bias, activation)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weights (in_features, out_features) in ``dtype``, float16 or bfloat16."""
        words, scales, zeros = self._operands()
        shape = (self.in_features, self.out_features)
        out = torch.empty(shape, dtype=dtype, device=words.device)
        config = launch.configuration("dequantize", "half")
        depth = launch.dividing(config.block_k, self.group)
        dequantize_kernel[(triton.cdiv(shape[1], config.block_n), shape[0] // depth)](
            out=out, words=words, scales=scales, zeros=zeros,
            order=words if self.order is None else self.order, num_columns=shape[1],
            num_inputs=shape[0], group=self.group, ORDER=self.order is not None, BITS=self.bits,
            FP4=self.is_fp4, HALF=dtype == torch.float16, BLOCK_K=depth, BLOCK_N=config.block_n,
            num_warps=config.num_warps,
        )  # fmt: skip
        return out

    def _operands(self) -> tuple[Tensor, Tensor, Tensor]:
        """Words, scales, and zeros (8-bit weights have none, and the kernel reads none)."""
        words, scales, *zeros = self.tensors
        return words, scales, zeros[0] if zeros else scales


class GpuInt8(GpuQuantized):
    """tensors: codes (in_features, out_features) int8 and scales (out_features,) float32."""

    scheme, bits = "int8", 8


class GpuInt4(GpuQuantized):
    """tensors: words (in_features / 8, out_features) int32, scales and zeros by group."""

    scheme, bits = "int4", 4

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """See ``atoll_kernels.linear``."""
        row = None
        if x.shape[0] == 1:
            row = int4_row(x, self.tensors, self.group, self.order, self.bias, activation)
        return super().forward(x, activation) if row is None else row


class GpuMxfp4(GpuQuantized):
    """tensors: words (in_features / 8, out_features) int32, scales (in_features / 32, out_features)
    uint8. A tile may have several rows of scales; its depth divides ``group``.
    """

    scheme, bits, is_fp4 = "mxfp4", 4, True


def pack_linear(
    weight: Tensor, bias: Tensor | None, scheme: str, group_size: int
) -> PackedLinear | None:
    """See ``atoll_kernels.pack_linear``; declines shapes that tiles do not divide."""
    if scheme == "dense":
        return GpuDense(weight.shape[1], weight.shape[0], (weight,), bias)
    if scheme == "int8" and weight.shape[1] % 16 == 0:
        codes, scales = quantize_int8(weight)
        tensors = (codes.t().contiguous(), scales)
        return GpuInt8(weight.shape[1], weight.shape[0], tensors, bias, weight.shape[1], None)
    if scheme == "int4" and weight.shape[1] % group_size == 0:
        return _quantize_int4(weight, bias, group_size)
    return None


def pack_int4(
    codes: Tensor, zeros: Tensor, scales: Tensor, groups: Tensor, bias: Tensor | None,
    dtype: torch.dtype,
) -> PackedLinear | None:  # fmt: skip
    """See ``atoll_kernels.pack_int4``; declines groups of unequal or odd sizes.

    Inputs are sorted by group, once, so that a tile of weights has one row of scales; the kernel
    gathers the columns of x in that order.
    """
    size, order = group_order(groups, len(scales))
    if size == 0 or size % 16:
        return None
    words = _pack_nibbles(codes if order is None else codes[order])
    # Zeros are small integers, exact in any dtype; scales keep their dtype.
    tensors = (words, scales.contiguous(), zeros.to(torch.float16).contiguous())
    order = None if order is None else order.int()
    return GpuInt4(codes.shape[0], codes.shape[1], tensors, bias, size, order)


def pack_mxfp4(
    blocks: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> PackedLinear:
    """See ``atoll_kernels.pack_mxfp4``; four bytes of a block are a word as they are."""
    out_features, num_groups = scales.shape
    words = blocks.contiguous().flatten(1).view(torch.int32).t().contiguous()
    tensors, in_features = (words, scales.t().contiguous()), MXFP4_GROUP * num_groups
    depth = math.gcd(in_features, _MXFP4_DEPTH)
    return GpuMxfp4(in_features, out_features, tensors, bias, depth, None)


def tile(op: str, x: Tensor, rows_per_weight: int, group: int) -> Launch:
    """The table's row, with a depth at which a tile of weights has one row of scales."""
    phase = "decode" if rows_per_weight <= 32 else "prefill"
    config = launch.configuration(op, f"{launch.width(x.dtype)}-{phase}")
    return config._replace(block_k=launch.dividing(config.block_k, group))


def _quantize_int4(weight: Tensor, bias: Tensor | None, group_size: int) -> PackedLinear | None:
    """16 levels from the smallest to the largest weight of each group, 0 included."""
    out_features, in_features = weight.shape
    grouped = weight.float().view(out_features, -1, group_size)
    low, high = grouped.amin(-1).clamp_max(0), grouped.amax(-1).clamp_min(0)
    scales = ((high - low) / 15).clamp_min(1e-8).to(torch.float16).float()
    zeros = (-low / scales).round().clamp(0, 15)
    codes = (grouped / scales[..., None]).round() + zeros[..., None]
    codes = codes.clamp(0, 15).int().view(out_features, in_features).t()
    groups = torch.arange(in_features, device=weight.device) // group_size
    return pack_int4(codes, zeros.t(), scales.t().half(), groups, bias, weight.dtype)


def _pack_nibbles(codes: Tensor) -> Tensor:
    """(K, N) values 0..15 -> (K / 8, N) int32, the lowest nibble first."""
    nibbles = codes.to(torch.int64).view(-1, 8, codes.shape[1])
    shifts = 4 * torch.arange(8, device=codes.device).view(1, 8, 1)
    words = (nibbles << shifts).sum(1)
    # The top nibble's highest bit is the sign of an int32.
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32).contiguous()

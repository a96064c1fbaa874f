"""Linear layers: 8-bit and 4-bit weights, and any weights for a single row.

Dense products of more rows are cuBLAS's, through the reference; and so are those of very many rows
with quantised weights, which are widened for them: a product of ours widens each weight once for
every tile of rows.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atoll_kernels.gpu import launch
from atoll_kernels.gpu.activation import activate
from atoll_kernels.gpu.gemv import gemv
from atoll_kernels.gpu.kernels.activation import CODES
from atoll_kernels.gpu.kernels.matmul import add_splits_kernel, matmul_kernel, widen_kernel
from atoll_kernels.linear import PackedLinear

LAYOUTS = {"gpu-int8": 8, "gpu-int4": 4}
_MAX_SPLITS = 16
_WAVES = 4
_ADD_BLOCK = 512
# Rows from which writing and reading the widened weights takes less time than it saves.
_WIDENED_ROWS = 256


def pack_linear(
    weight: Tensor, bias: Tensor | None, scheme: str, group_size: int
) -> PackedLinear | None:
    """See ``atoll_kernels.pack_linear``; declines dense weights."""
    if scheme == "int8" and weight.shape[1] % 16 == 0:
        return _pack_int8(weight, bias)
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
    num_inputs, num_outputs = codes.shape
    size, rest = divmod(num_inputs, scales.shape[0])
    order = groups.argsort(stable=True)
    expected = torch.arange(num_inputs, device=groups.device) // size if size else groups
    if rest or size % 16 or not torch.equal(groups[order], expected):
        return None
    is_sorted = torch.equal(groups, expected)
    words = _pack_nibbles(codes if is_sorted else codes[order])
    # Zeros are small integers and exact in any dtype; scales keep the dtype that they came in.
    kept = (words, scales.contiguous(), zeros.to(torch.float16).contiguous())
    extra = {"group": size, "dtype": dtype, "order": None if is_sorted else order.int()}
    return PackedLinear("gpu-int4", "int4", num_inputs, num_outputs, kept, bias, extra)


def linear(x: Tensor, packed: PackedLinear, activation: str | None) -> Tensor | None:
    """See ``atoll_kernels.linear``; declines dense weights, unless x is a single row."""
    if x.shape[0] == 1:
        row = gemv(x, packed, activation)
        if row is not None:
            return row
    if packed.layout not in LAYOUTS or x.stride(-1) != 1:
        return None
    if x.shape[0] >= _WIDENED_ROWS and x.dtype.itemsize == 2:
        weight = widened(packed, x.dtype)
        plain = x @ weight if packed.bias is None else torch.addmm(packed.bias, x, weight)
        return plain if activation is None else activate(plain, activation)
    out = torch.empty((x.shape[0], packed.out_features), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    bits, order = LAYOUTS[packed.layout], packed.extra.get("order")
    group = packed.extra.get("group", packed.in_features)
    config = tile("quantized", x, x.shape[0], group)
    rows = triton.cdiv(x.shape[0], config.block_m)
    columns = triton.cdiv(packed.out_features, config.block_n)
    splits = _splits(rows, columns, packed.in_features // config.block_k)
    target = out
    if splits > 1:
        target = torch.empty((splits, *out.shape), dtype=torch.float32, device=x.device)
    words, scales, *zeros = packed.tensors
    has_bias, code = packed.bias is not None, CODES[activation] if activation else 0
    bias = out if packed.bias is None else packed.bias
    matmul_kernel[(columns, rows, splits)](
        target, x, words, scales, zeros[0] if zeros else scales, words if order is None else order,
        bias, words, words, words, scales, x.shape[0], packed.out_features, packed.in_features,
        group, x.stride(0), 0, 0, 1, EXPERTS=False, ORDER=order is not None,
        BIAS=has_bias and splits == 1, SHARES=False, CODE=code if splits == 1 else 0, BITS=bits,
        HALF=x.dtype == torch.float16, SPLITS=splits, PRECISION=launch.precision(x.dtype),
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_K=config.block_k,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    if splits > 1:
        add_splits_kernel[(x.shape[0], triton.cdiv(packed.out_features, _ADD_BLOCK))](
            out, target, bias, x.shape[0], packed.out_features, SPLITS=splits, BIAS=has_bias,
            CODE=code, BLOCK=_ADD_BLOCK, num_warps=4,
        )  # fmt: skip
    return out


def widened(packed: PackedLinear, dtype: torch.dtype) -> Tensor:
    """The weights (in_features, out_features) in ``dtype``, float16 or bfloat16."""
    words, scales, *zeros = packed.tensors
    shape = (packed.in_features, packed.out_features)
    out = torch.empty(shape, dtype=dtype, device=words.device)
    order, group = packed.extra.get("order"), packed.extra.get("group", packed.in_features)
    config = launch.configuration("widen", "half")
    depth = config.block_k
    while group % depth:
        depth //= 2
    widen_kernel[(triton.cdiv(shape[1], config.block_n), shape[0] // depth)](
        out, words, scales, zeros[0] if zeros else scales, words if order is None else order,
        shape[1], shape[0], group, ORDER=order is not None, BITS=LAYOUTS[packed.layout],
        HALF=dtype == torch.float16, BLOCK_K=depth, BLOCK_N=config.block_n,
        num_warps=config.num_warps,
    )  # fmt: skip
    return out


def tile(op: str, x: Tensor, rows_per_weight: int, group: int) -> launch.Launch:
    """The table's row, its depth cut so that a tile of weights lies in one group of scales."""
    few = "few" if rows_per_weight <= 32 else "many"
    config = launch.configuration(op, f"{launch.width(x.dtype)}-{few}")
    depth = config.block_k
    while group % depth:
        depth //= 2
    return config._replace(block_k=depth)


def _splits(row_tiles: int, column_tiles: int, num_steps: int) -> int:
    """Splits along the inputs, each with at least four steps: as many as fill the card.

    Few rows wait for memory: several programs on each processor keep more loads in flight.
    """
    wanted = (_WAVES if row_tiles == 1 else 1) * launch.num_processors()
    return max(1, min(wanted // (row_tiles * column_tiles), num_steps // 4, _MAX_SPLITS))


def _pack_int8(weight: Tensor, bias: Tensor | None) -> PackedLinear:
    out_features, in_features = weight.shape
    wide = weight.float()
    scales = wide.abs().amax(1).clamp_min(1e-12) / 127
    codes = (wide / scales[:, None]).round().to(torch.int8).t().contiguous()
    return PackedLinear("gpu-int8", "int8", in_features, out_features, (codes, scales), bias)


def _quantize_int4(weight: Tensor, bias: Tensor | None, group_size: int) -> PackedLinear | None:
    """Between the least and the largest weight of each group, 0 included."""
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

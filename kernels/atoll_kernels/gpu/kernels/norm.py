"""Norms, fused with the residual addition: one row per program, statistics in float32."""

import triton
import triton.language as tl


@triton.jit
def norm_kernel(
    out, sums, x, residual, weight, bias, x_stride, residual_stride, hidden, eps,
    RMS: tl.constexpr, RESIDUAL: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (tokens,). Rounds as the torch reference does: the sum, and RMSNorm before scaling."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < hidden
    value = tl.load(x + row * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    if RESIDUAL:
        value += tl.load(residual + row * residual_stride + columns, mask=mask, other=0.0).to(
            tl.float32
        )
        rounded = value.to(sums.dtype.element_ty)
        tl.store(sums + row * hidden + columns, rounded, mask=mask)
        value = rounded.to(tl.float32)
    if RMS:
        inverse = tl.rsqrt(tl.sum(value * value, 0) / hidden + eps)
        value = (value * inverse).to(weight.dtype.element_ty).to(tl.float32)
    else:
        mean = tl.sum(value, 0) / hidden
        centred = tl.where(mask, value - mean, 0.0)
        value = centred * tl.rsqrt(tl.sum(centred * centred, 0) / hidden + eps)
    if WEIGHT:
        value *= tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * hidden + columns, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def grouped_norm_kernel(
    out, x, gate, weight, x_stride, gate_stride, weight_stride, size, eps, GATE: tl.constexpr,
    FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (tokens, groups of ``size`` features). FIRST: the gate is applied before the norm.

    weight_stride: between the scales of groups. Rounds as the torch reference does.
    """
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    mask = columns < size
    value = tl.load(x + row * x_stride + group * size + columns, mask=mask, other=0.0)
    value = value.to(tl.float32)
    opened = value
    if GATE:
        opened = tl.load(gate + row * gate_stride + group * size + columns, mask=mask, other=0.0)
        opened = opened.to(tl.float32)
        opened *= tl.sigmoid(opened)
        if FIRST:
            value *= opened
    inverse = tl.rsqrt(tl.sum(value * value, 0) / size + eps)
    scale = tl.load(weight + group * weight_stride + columns, mask=mask, other=0.0)
    value = (value * inverse).to(scale.dtype).to(tl.float32) * scale.to(tl.float32)
    value = value.to(scale.dtype).to(tl.float32)
    if GATE and not FIRST:
        value *= opened
    out += (row * tl.num_programs(1) + group) * size + columns
    tl.store(out, value.to(out.dtype.element_ty), mask=mask)

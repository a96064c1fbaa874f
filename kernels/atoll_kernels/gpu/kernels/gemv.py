"""Matrix-vector products, which dominate a decoding step of a single sequence.

Weights are read once and nothing is reused, so tensor cores would not help: each lane multiplies
and adds in float32, with as many loads in flight as possible. Layouts are those of ``matmul``.
"""

import triton
import triton.language as tl

from atoll_kernels.gpu.kernels.activation import apply_activation


@triton.jit
def _finish(out, bias, acc, columns, mask, BIAS: tl.constexpr, CODE: tl.constexpr):
    """Adds the bias, applies the activation, rounds and stores."""
    if BIAS:
        acc += tl.load(bias + columns, mask=mask, other=0.0).to(tl.float32)
    acc = apply_activation(acc, CODE)
    tl.store(out + columns, acc.to(out.dtype.element_ty), mask=mask)


@triton.jit
def gemv_kernel(
    out, x, weight, bias, num_columns, num_inputs, BIAS: tl.constexpr, CODE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of columns,). weight: (N, K), K contiguous, 16 or 32 bits."""
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = columns < num_columns
    rows = weight + columns[:, None].to(tl.int64) * num_inputs
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for k_start in range(0, num_inputs, BLOCK_K):
        inputs = k_start + tl.arange(0, BLOCK_K)
        held = inputs < num_inputs
        value = tl.load(x + inputs, mask=held, other=0.0).to(tl.float32)
        weights = tl.load(rows + inputs[None, :], mask=mask[:, None] & held[None, :], other=0.0)
        acc += weights.to(tl.float32) * value[None, :]
    _finish(out, bias, tl.sum(acc, 1), columns, mask, BIAS, CODE)


@triton.jit
def gemv_int4_kernel(
    out, x, words, scales, zeros, order, bias, num_columns, num_inputs, group,
    ORDER: tl.constexpr, BIAS: tl.constexpr, CODE: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of columns, SPLITS); with SPLITS > 1, out is (SPLITS, N) float32.

    BLOCK_K divides ``group``, so that a tile has one row of scales and zeros, which are applied to
    its sums: scale * (sum(code * x) - zero * sum(x)).
    """
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = columns < num_columns
    split = tl.program_id(1)
    share = tl.cdiv(tl.cdiv(num_inputs, BLOCK_K), SPLITS) * BLOCK_K
    rows = tl.arange(0, BLOCK_K // 8)
    acc = tl.zeros((BLOCK_K // 8, BLOCK_N), tl.float32)
    for k_start in range(split * share, tl.minimum((split + 1) * share, num_inputs), BLOCK_K):
        packed = tl.load(
            words + (k_start // 8 + rows)[:, None].to(tl.int64) * num_columns + columns[None, :],
            mask=mask[None, :], other=0,
        )  # fmt: skip
        place = (k_start // group) * num_columns + columns
        scale = tl.load(scales + place, mask=mask, other=0.0).to(tl.float32)
        zero = tl.load(zeros + place, mask=mask, other=0.0).to(tl.float32)
        dots = tl.zeros((BLOCK_K // 8, BLOCK_N), tl.float32)
        sums = tl.zeros((BLOCK_K // 8,), tl.float32)
        for nibble in tl.static_range(8):
            inputs = k_start + rows * 8 + nibble
            if ORDER:
                inputs = tl.load(order + inputs)
            value = tl.load(x + inputs).to(tl.float32)
            # 0x4B000000 | code is 2^23 + code in float32.
            code = ((packed >> (4 * nibble)) & 15) | 0x4B000000
            dots += (code.to(tl.float32, bitcast=True) - 8388608.0) * value[:, None]
            sums += value
        acc += (dots - sums[:, None] * zero[None, :]) * scale[None, :]
    total = tl.sum(acc, 0)
    if SPLITS > 1:
        tl.store(out + split * num_columns + columns, total, mask=mask)
    else:
        _finish(out, bias, total, columns, mask, BIAS, CODE)

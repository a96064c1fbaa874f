"""``x @ W`` for quantized weights, and for the weights of many experts in one launch.

The weights of an expert, or of a linear layer:

- 16 or 32 bits: (N, K), K contiguous, as checkpoints have them.
- 8 bits: (K, N) int8 codes, one scale per column.
- 4 bits: (K / 8, N) int32, the code of input 8r + i in nibble i of row r; scales and zeros
  (K / group, N). W[k, n] = scales[k // group, n] * (code - zeros[k // group, n]).
- MXFP4: the same words of E2M1 codes; scales (K / 32, N) uint8, powers of two, of at most 240.

Codes are converted by setting bits: 0x6400 | code is 1024 + code in float16, and 0x4B000000 | code
is 2^23 + code in float32. Integer conversions would take longer than the product.
"""

import triton
import triton.language as tl

from atoll_kernels.gpu.kernels.activation import apply_activation


@triton.jit
def _int4(codes, scales, zeros, place, mask, HALF: tl.constexpr):
    """Values of integer codes (BLOCK_K, BLOCK_N); ``place``: of their row of scales and zeros."""
    scale = tl.load(scales + place, mask=mask, other=0.0)[None, :]
    zero = tl.load(zeros + place, mask=mask, other=0.0)[None, :]
    if HALF:
        value = (codes | 0x6400).to(tl.int16).to(tl.float16, bitcast=True)
        value = (value - (zero.to(tl.float16) + 1024.0)) * scale.to(tl.float16)
    else:
        value = (codes | 0x4B000000).to(tl.float32, bitcast=True)
        value = (value - (zero.to(tl.float32) + 8388608.0)) * scale.to(tl.float32)
    return value


@triton.jit
def _fp4(
    codes, scales, k_start, columns, num_columns, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Values of E2M1 codes (BLOCK_K, BLOCK_N), in float32; BLOCK_K is a multiple of 32.

    Its exponent and mantissa, in the places of float16's, are 2^14 times too small, even where they
    are subnormal.
    """
    groups = k_start // 32 + tl.arange(0, BLOCK_K // 32)
    bits = ((codes & 8) << 12) | ((codes & 7) << 9)
    value = bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    byte = tl.load(
        scales + groups[:, None] * num_columns + columns[None, :],
        mask=(columns < num_columns)[None, :], other=0,
    )  # fmt: skip
    power = ((byte.to(tl.int32) + 14) << 23).to(tl.float32, bitcast=True)
    value = tl.reshape(value, (BLOCK_K // 32, 32, BLOCK_N)) * power[:, None, :]
    return tl.reshape(value, (BLOCK_K, BLOCK_N))


@triton.jit
def _weights(
    words, scales, zeros, k_start, columns, num_columns, num_inputs, group, HALF: tl.constexpr,
    BITS: tl.constexpr, FP4: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The tile (BLOCK_K, BLOCK_N) at row ``k_start``; 8-bit codes are not scaled yet."""
    mask = columns < num_columns
    # 64-bit offsets: the head of a large model has more than 2^31 weights.
    if BITS == 4:
        first = words + tl.cast(k_start // 8, tl.int64) * num_columns
        rows = tl.arange(0, BLOCK_K // 8)
        packed = tl.load(
            first + rows[:, None] * num_columns + columns[None, :], mask=mask[None, :], other=0
        )
        shifts = tl.arange(0, 8) * 4
        codes = tl.reshape((packed[:, None, :] >> shifts[None, :, None]) & 15, (BLOCK_K, BLOCK_N))
        if FP4:
            value = _fp4(codes, scales, k_start, columns, num_columns, BLOCK_K, BLOCK_N)
        else:
            place = (k_start // group) * num_columns + columns
            value = _int4(codes, scales, zeros, place, mask, HALF)
    elif BITS == 8:
        first = words + tl.cast(k_start, tl.int64) * num_columns
        rows = tl.arange(0, BLOCK_K)
        value = tl.load(
            first + rows[:, None] * num_columns + columns[None, :], mask=mask[None, :], other=0
        ).to(tl.float32)
    else:
        rows = k_start + tl.arange(0, BLOCK_K)
        value = tl.load(
            words + columns[None, :].to(tl.int64) * num_inputs + rows[:, None],
            mask=mask[None, :] & (rows[:, None] < num_inputs), other=0.0,
        )  # fmt: skip
    return value


@triton.jit
def dequantize_kernel(
    out, words, scales, zeros, order, num_columns, num_inputs, group, ORDER: tl.constexpr,
    BITS: tl.constexpr, FP4: tl.constexpr, HALF: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (column tiles, tiles of inputs): weights (inputs, N), inputs in the order of x."""
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k_start = tl.program_id(1) * BLOCK_K
    value = _weights(
        words, scales, zeros, k_start, columns, num_columns, num_inputs, group, HALF, BITS, FP4,
        BLOCK_K, BLOCK_N,
    )  # fmt: skip
    if BITS == 8:
        scale = tl.load(scales + columns, mask=columns < num_columns, other=0.0)
        value = value * scale.to(tl.float32)[None, :]
    inputs = k_start + tl.arange(0, BLOCK_K)
    if ORDER:
        inputs = tl.load(order + inputs)
    where = inputs.to(tl.int64)[:, None] * num_columns + columns[None, :]
    tl.store(out + where, value.to(out.dtype.element_ty), mask=(columns < num_columns)[None, :])


@triton.jit(
    do_not_specialize=("num_rows",),
    do_not_specialize_on_alignment=("slots", "tile_experts", "tile_rows"),
)
def matmul_kernel(
    out, x, words, scales, zeros, order, bias, slots, tile_experts, tile_rows, shares, num_rows,
    num_columns, num_inputs, group, x_stride, words_stride, scales_stride, divide,
    EXPERTS: tl.constexpr, ORDER: tl.constexpr, BIAS: tl.constexpr, SHARES: tl.constexpr,
    CODE: tl.constexpr, BITS: tl.constexpr, FP4: tl.constexpr, HALF: tl.constexpr,
    SPLITS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (column tiles, row tiles, SPLITS); with SPLITS > 1, out is (SPLITS, rows, N) float32.

    With EXPERTS, row tile t has ``tile_rows[t]`` rows, slots[t * BLOCK_M:], all of one expert. Slot
    s reads row s // divide of x and writes row s of out, multiplied by ``shares[s]`` with SHARES.
    """
    column_tile, row_tile, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    lanes = tl.arange(0, BLOCK_M)
    if EXPERTS:
        kept = lanes < tl.load(tile_rows + row_tile)
        expert = tl.load(tile_experts + row_tile).to(tl.int64)
        if expert < 0:
            return
        rows = tl.load(slots + row_tile * BLOCK_M + lanes, mask=kept, other=0).to(tl.int64)
        words += expert * words_stride
        scales += expert * scales_stride
        zeros += expert * scales_stride
        if ORDER:
            order += expert * num_inputs
        if BIAS:
            bias += expert * num_columns
    else:
        rows = (row_tile * BLOCK_M + lanes).to(tl.int64)
        kept = rows < num_rows
    columns = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    x_rows = x + (rows // divide) * x_stride

    share = tl.cdiv(tl.cdiv(num_inputs, BLOCK_K), SPLITS) * BLOCK_K
    first = split * share
    last = tl.minimum(first + share, num_inputs)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k_start in range(first, last, BLOCK_K):
        inputs = k_start + tl.arange(0, BLOCK_K)
        x_mask = kept[:, None] & (inputs < num_inputs)[None, :]
        if ORDER:
            inputs = tl.load(order + inputs, mask=inputs < num_inputs, other=0)
        left = tl.load(x_rows[:, None] + inputs[None, :], mask=x_mask, other=0.0)
        right = _weights(
            words, scales, zeros, k_start, columns, num_columns, num_inputs, group, HALF, BITS,
            FP4, BLOCK_K, BLOCK_N,
        )  # fmt: skip
        acc = tl.dot(left, right.to(left.dtype), acc, input_precision=PRECISION)
    if BITS == 8:
        scale = tl.load(scales + columns, mask=columns < num_columns, other=0.0)
        acc = acc * scale.to(tl.float32)[None, :]
    mask = kept[:, None] & (columns < num_columns)[None, :]
    where = rows[:, None] * num_columns + columns[None, :]
    if SPLITS > 1:
        tl.store(out + split.to(tl.int64) * num_rows * num_columns + where, acc, mask=mask)
    else:
        if BIAS:
            addend = tl.load(bias + columns, mask=columns < num_columns, other=0.0)
            acc += addend.to(tl.float32)[None, :]
        acc = apply_activation(acc, CODE)
        if SHARES:
            acc = acc * tl.load(shares + rows, mask=kept, other=0.0)[:, None]
        tl.store(out + where, acc.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=("num_rows",))
def add_splits_kernel(
    out, partial, bias, num_rows, num_columns, SPLITS: tl.constexpr, BIAS: tl.constexpr,
    CODE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (rows, blocks of columns): sums the splits in order, then bias and activation."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < num_columns
    value = tl.zeros((BLOCK,), tl.float32)
    for split in range(SPLITS):
        place = (split * num_rows + row) * num_columns + columns
        value += tl.load(partial + place, mask=mask, other=0.0)
    if BIAS:
        value += tl.load(bias + columns, mask=mask, other=0.0).to(tl.float32)
    value = apply_activation(value, CODE)
    tl.store(out + row * num_columns + columns, value.to(out.dtype.element_ty), mask=mask)

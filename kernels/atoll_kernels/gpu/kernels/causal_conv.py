"""A short convolution of each channel over a sequence, whose last inputs are its state.

A program computes BLOCK_M tokens of a sequence for BLOCK_N channels; that of a sequence's first
tokens also reads and writes the state, which no other one touches.
"""

import triton
import triton.language as tl

from atoll_kernels.gpu.kernels.positions import sequence_of_tile


@triton.jit(do_not_specialize=("num_seqs",))
def causal_conv_kernel(
    out, x, weight, bias, state, cu_seqlens, seq_lens, slots, num_seqs, channels, x_stride,
    state_stride, BIAS: tl.constexpr, STATE: tl.constexpr, SILU: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, blocks of channels). weight: (channels, WIDTH); a row of state: (channels,
    WIDTH - 1). Without STATE, every sequence begins at zero.
    """
    tile = tl.program_id(0)
    sequence = sequence_of_tile(cu_seqlens, num_seqs, tile, BLOCK_M)
    if sequence >= num_seqs:
        return
    start = tl.load(cu_seqlens + sequence).to(tl.int64)
    count = tl.load(cu_seqlens + sequence + 1) - start.to(tl.int32)
    first = (tile - (start.to(tl.int32) // BLOCK_M + sequence)) * BLOCK_M
    if first >= count:
        return
    rows = first + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < channels
    kept = (rows < count)[:, None] & is_column[None, :]
    out += (start + rows)[:, None] * channels + columns[None, :]
    x += start * x_stride + columns
    is_known = False
    if STATE:
        slot = tl.load(slots + sequence).to(tl.int64)
        if slot < 0:
            tl.store(out, tl.zeros((BLOCK_M, BLOCK_N), out.dtype.element_ty), mask=kept)
            return
        is_known = tl.load(seq_lens + sequence) > count
        # Input i of a sequence is at i + WIDTH - 1 of a channel's row, for i < 0.
        state += slot * state_stride + columns * (WIDTH - 1) + (WIDTH - 1)

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if BIAS:
        acc += tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
    for j in tl.static_range(WIDTH):
        at = rows - (WIDTH - 1 - j)
        is_new = (at >= 0)[:, None]
        value = tl.load(
            x[None, :] + at[:, None].to(tl.int64) * x_stride, mask=kept & is_new, other=0.0
        ).to(tl.float32)
        if STATE:
            held = kept & is_known & (at < 0)[:, None]
            value += tl.load(state[None, :] + at[:, None], mask=held, other=0.0).to(tl.float32)
        factor = tl.load(weight + columns * WIDTH + j, mask=is_column, other=0.0).to(tl.float32)
        acc += value * factor[None, :]
    if SILU:
        acc = acc / (1.0 + tl.exp(-acc))
    tl.store(out, acc.to(out.dtype.element_ty), mask=kept)

    if STATE:
        # All threads have read the state; from here on, each one has channels of its own.
        tl.debug_barrier()
        is_first = is_column & (first == 0)
        for j in tl.static_range(WIDTH - 1):
            at = count - (WIDTH - 1 - j)
            new = tl.load(x + at.to(tl.int64) * x_stride, mask=is_first & (at >= 0), other=0.0)
            old = tl.load(state + at, mask=is_first & (is_known & (at < 0)), other=0.0)
            value = tl.where(at < 0, old, new.to(old.dtype))
            tl.store(state - (WIDTH - 1 - j), value, mask=is_first)

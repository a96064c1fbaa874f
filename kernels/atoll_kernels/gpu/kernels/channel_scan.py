"""Mamba-1's scan (Gu & Dao 2023, arXiv 2312.00752) over packed sequences.

With a row s (state_size) of a channel's state, of each token: ``s = exp(dt A) s + (dt x) B;
out = s C + D x``. Every number decays at a speed of its own, so that there is no form of matrix
products: the tokens of a sequence follow each other, steps and prompts alike.
"""

import triton
import triton.language as tl


@triton.jit
def channel_scan_kernel(
    out, x, dt, decay, b, c, skip, state, cu_seqlens, seq_lens, slots, channels, x_stride,
    dt_stride, b_stride, c_stride, state_stride, state_size, STATE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (sequences, blocks of channels)."""
    sequence = tl.program_id(0)
    rows = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_K)
    is_row, is_dim = rows < channels, dims < state_size
    kept = is_row[:, None] & is_dim[None, :]
    start = tl.load(cu_seqlens + sequence).to(tl.int64)
    count = tl.load(cu_seqlens + sequence + 1) - start.to(tl.int32)
    out += start * channels + rows
    slot = tl.zeros((), tl.int64)
    s = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    if STATE:
        slot = tl.load(slots + sequence).to(tl.int64)
        state += slot * state_stride + rows[:, None] * state_size + dims[None, :]
        is_known = (slot >= 0) & (tl.load(seq_lens + sequence) > count)
        s = tl.load(state, mask=kept & is_known, other=0.0).to(tl.float32)
    speed = tl.load(decay + rows[:, None] * state_size + dims[None, :], mask=kept, other=0.0)
    factor = tl.load(skip + rows, mask=is_row, other=0.0)
    x += start * x_stride + rows
    dt += start * dt_stride + rows
    b += start * b_stride + dims
    c += start * c_stride + dims
    for _ in range(count):
        if slot < 0:
            tl.store(out, tl.zeros((BLOCK_N,), out.dtype.element_ty), mask=is_row)
        else:
            value = tl.load(x, mask=is_row, other=0.0).to(tl.float32)
            step = tl.load(dt, mask=is_row, other=0.0)
            taken = tl.load(b, mask=is_dim, other=0.0).to(tl.float32)
            shown = tl.load(c, mask=is_dim, other=0.0).to(tl.float32)
            s = s * tl.exp(step[:, None] * speed) + (step * value)[:, None] * taken[None, :]
            found = tl.sum(s * shown[None, :], 1) + factor * value
            tl.store(out, found.to(out.dtype.element_ty), mask=is_row)
        x += x_stride
        dt += dt_stride
        b += b_stride
        c += c_stride
        out += channels
    if STATE:
        tl.store(state, s.to(state.dtype.element_ty), mask=kept & (slot >= 0))

"""Mamba-2's scan (Dao & Gu 2024, arXiv 2405.21060) over packed sequences.

With S (head_dim, state_size), of each token: ``S = d S + (dt x) B^T; out = S C + D x``, where
d = exp(dt A). ``step`` computes this, token by token. In chunks, with the rows x, B, C of a chunk's
tokens as matrices, X those of dt x, S as it was before them, G_i the product of the decays up to
token i and D_ij of those after token j up to token i (j <= i):

    out = G C S^T + P X    P_ij = D_ij (C_i . B_j) for j <= i
    S = G_last S + (D_last X)^T B

The sums of logarithms in D are sums of the very terms: their differences would lose all digits
after a token that forgets everything.
"""

import triton
import triton.language as tl


@triton.jit
def scan2_step_kernel(
    out, x, dt, decay, b, c, skip, state, cu_seqlens, seq_lens, slots, num_heads, x_stride,
    x_head_stride, dt_stride, b_stride, b_group_stride, c_stride, c_group_stride, state_stride,
    head_dim, state_size, GROUP: tl.constexpr, SKIP: tl.constexpr, STATE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (sequences, heads, blocks of rows): a few tokens of each sequence."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    rows = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_K)
    is_row, is_dim = rows < head_dim, dims < state_size
    kept = is_row[:, None] & is_dim[None, :]
    start = tl.load(cu_seqlens + sequence).to(tl.int64)
    count = tl.load(cu_seqlens + sequence + 1) - start.to(tl.int32)
    out += (start * num_heads + head) * head_dim + rows
    slot = tl.zeros((), tl.int64)
    s = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    if STATE:
        slot = tl.load(slots + sequence).to(tl.int64)
        state += slot * state_stride + head * head_dim * state_size
        state += rows[:, None] * state_size + dims[None, :]
        is_known = (slot >= 0) & (tl.load(seq_lens + sequence) > count)
        s = tl.load(state, mask=kept & is_known, other=0.0).to(tl.float32)
    x += start * x_stride + head * x_head_stride + rows
    b += start * b_stride + (head // GROUP) * b_group_stride + dims
    c += start * c_stride + (head // GROUP) * c_group_stride + dims
    dt += start * dt_stride + head
    speed = tl.load(decay + head)
    factor = tl.load(skip + head) if SKIP else 0.0
    for _ in range(count):
        if slot < 0:
            tl.store(out, tl.zeros((BLOCK_N,), out.dtype.element_ty), mask=is_row)
        else:
            value = tl.load(x, mask=is_row, other=0.0).to(tl.float32)
            step = tl.load(dt)
            taken = tl.load(b, mask=is_dim, other=0.0).to(tl.float32)
            shown = tl.load(c, mask=is_dim, other=0.0).to(tl.float32)
            s = s * tl.exp(step * speed) + (step * value)[:, None] * taken[None, :]
            found = tl.sum(s * shown[None, :], 1) + factor * value
            tl.store(out, found.to(out.dtype.element_ty), mask=is_row)
        x += x_stride
        dt += dt_stride
        b += b_stride
        c += c_stride
        out += num_heads * head_dim
    if STATE:
        tl.store(state, s.to(state.dtype.element_ty), mask=kept & (slot >= 0))


@triton.jit
def _rows(x, stride, tokens, columns, mask):
    """A tile of x, in float32."""
    at = x + tokens[:, None].to(tl.int64) * stride + columns[None, :]
    return tl.load(at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def scan2_chunk_kernel(
    out, x, dt, decay, b, c, skip, state, cu_seqlens, seq_lens, slots, num_heads, x_stride,
    x_head_stride, dt_stride, b_stride, b_group_stride, c_stride, c_group_stride, state_stride,
    head_dim, state_size, GROUP: tl.constexpr, SKIP: tl.constexpr, STATE: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (sequences, heads, blocks of rows): BLOCK_M tokens after each other."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    start = tl.load(cu_seqlens + sequence)
    count = tl.load(cu_seqlens + sequence + 1) - start
    index, dims = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K)
    rows = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_dim = rows < head_dim, dims < state_size
    kept = is_row[:, None] & is_dim[None, :]
    out += head * head_dim
    s = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    if STATE:
        slot = tl.load(slots + sequence).to(tl.int64)
        if slot < 0:
            for first in range(0, count, BLOCK_M):
                places = (start + first + index)[:, None].to(tl.int64) * num_heads * head_dim
                mask = (first + index < count)[:, None] & is_row[None, :]
                zero = tl.zeros((BLOCK_M, BLOCK_N), out.dtype.element_ty)
                tl.store(out + places + rows[None, :], zero, mask=mask)
            return
        state += slot * state_stride + head * head_dim * state_size
        state += rows[:, None] * state_size + dims[None, :]
        is_known = tl.load(seq_lens + sequence) > count
        s = tl.load(state, mask=kept & is_known, other=0.0).to(tl.float32)
    x += head * x_head_stride
    b += (head // GROUP) * b_group_stride
    c += (head // GROUP) * c_group_stride
    speed = tl.load(decay + head)
    factor = tl.load(skip + head) if SKIP else 0.0
    # B and C of 16 bits have no digits beyond those of tf32.
    is_exact: tl.constexpr = b.dtype.element_ty != tl.float32 and PRECISION == "tf32x3"
    EXACT: tl.constexpr = "tf32" if is_exact else PRECISION
    # Rows are the earlier tokens j, columns the later ones i.
    is_later = index[None, :] > index[:, None]
    for first in range(0, count, BLOCK_M):
        tokens = start + first + index
        held = first + index < count
        mask = held[:, None] & is_row[None, :]
        values = _rows(x, x_stride, tokens, rows, mask)
        taken = _rows(b, b_stride, tokens, dims, held[:, None] & is_dim[None, :])
        shown = _rows(c, c_stride, tokens, dims, held[:, None] & is_dim[None, :])
        steps = tl.load(dt + tokens.to(tl.int64) * dt_stride + head, mask=held, other=0.0)
        logs = steps * speed
        between = tl.exp(tl.cumsum(tl.where(is_later, logs[None, :], 0.0), 1))
        weights = tl.dot(taken, tl.trans(shown), input_precision=EXACT) * between
        weights = tl.where(index[None, :] >= index[:, None], weights, 0.0)
        inputs = values * steps[:, None]
        found = tl.dot(tl.trans(weights), inputs, input_precision=PRECISION)
        sums = tl.cumsum(logs, 0)
        if is_exact:
            # Two products, with the upper and the lower digits of S, take fewer registers.
            upper = (s.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
            old = tl.dot(shown, tl.trans(s - upper), input_precision="tf32")
            old = tl.dot(shown, tl.trans(upper), old, input_precision="tf32")
        else:
            old = tl.dot(shown, tl.trans(s), input_precision=PRECISION)
        found += old * tl.exp(sums)[:, None] + factor * values
        places = tokens[:, None].to(tl.int64) * num_heads * head_dim
        tl.store(out + places + rows[None, :], found.to(out.dtype.element_ty), mask=mask)
        # What is left of each token's at the end of the chunk; those beyond have no step.
        left = tl.exp(tl.sum(tl.where(is_later, logs[None, :], 0.0), 1))
        brought = tl.dot(tl.trans(inputs * left[:, None]), taken, input_precision=PRECISION)
        s = s * tl.exp(tl.sum(logs, 0)) + brought
    if STATE:
        tl.store(state, s.to(state.dtype.element_ty), mask=kept)

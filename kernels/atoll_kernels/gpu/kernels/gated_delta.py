"""The gated delta rule (Yang et al. 2025, arXiv 2412.06464) over packed sequences.

With S (key_dim, value_dim), of each token: ``S = d S; u = b (v - S^T k); S = S + k u^T;
out = S^T q``, where d = exp(log_decay). ``step`` computes this, token by token. In chunks, with the
rows k, q, v, u of a chunk's tokens as matrices, S as it was before them, G_i the product of the
decays up to token i and D_ij of those after token j up to token i (j <= i):

    (I + L) U = b (V - G K S)     L_ij = b_i D_ij (k_i . k_j) for j < i
    out = G Q S + P U             P_ij = D_ij (q_i . k_j) for j <= i
    S = G_last S + K^T (D_last U)

``products`` computes T = (I + L)^-1 b and P, which do not depend on S, for all chunks at once;
``scan`` the rest, chunk after chunk. The logarithms of D are sums, not differences of sums from the
chunk's first token on, which would lose all digits after a token that forgets everything.
"""

import triton
import triton.language as tl

from atoll_kernels.gpu.kernels.positions import sequence_of_tile


@triton.jit
def gated_delta_step_kernel(
    out, q, k, v, log_decay, beta, state, cu_seqlens, seq_lens, slots, num_heads, q_stride,
    q_head_stride, k_stride, k_head_stride, v_stride, v_head_stride, decay_stride, beta_stride,
    state_stride, key_dim, value_dim, GROUP: tl.constexpr, STATE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (sequences, heads, blocks of columns): a few tokens of each sequence."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    rows = tl.arange(0, BLOCK_K)
    columns = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_column = rows < key_dim, columns < value_dim
    kept = is_row[:, None] & is_column[None, :]
    start = tl.load(cu_seqlens + sequence).to(tl.int64)
    count = tl.load(cu_seqlens + sequence + 1) - start.to(tl.int32)
    out += (start * num_heads + head) * value_dim + columns
    slot = tl.zeros((), tl.int64)
    s = tl.zeros((BLOCK_K, BLOCK_N), tl.float32)
    if STATE:
        slot = tl.load(slots + sequence).to(tl.int64)
        state += slot * state_stride + head * key_dim * value_dim
        state += rows[:, None] * value_dim + columns[None, :]
        is_known = (slot >= 0) & (tl.load(seq_lens + sequence) > count)
        s = tl.load(state, mask=kept & is_known, other=0.0).to(tl.float32)
    q += start * q_stride + (head // GROUP) * q_head_stride + rows
    k += start * k_stride + (head // GROUP) * k_head_stride + rows
    v += start * v_stride + head * v_head_stride + columns
    log_decay += start * decay_stride + head
    beta += start * beta_stride + head
    for _ in range(count):
        if slot < 0:
            tl.store(out, tl.zeros((BLOCK_N,), out.dtype.element_ty), mask=is_column)
        else:
            key = tl.load(k, mask=is_row, other=0.0).to(tl.float32)
            query = tl.load(q, mask=is_row, other=0.0).to(tl.float32)
            value = tl.load(v, mask=is_column, other=0.0).to(tl.float32)
            s *= tl.exp(tl.load(log_decay))
            u = tl.load(beta) * (value - tl.sum(s * key[:, None], 0))
            s += key[:, None] * u[None, :]
            found = tl.sum(s * query[:, None], 0)
            tl.store(out, found.to(out.dtype.element_ty), mask=is_column)
        q += q_stride
        k += k_stride
        v += v_stride
        log_decay += decay_stride
        beta += beta_stride
        out += num_heads * value_dim
    if STATE:
        tl.store(state, s.to(state.dtype.element_ty), mask=kept & (slot >= 0))


@triton.jit
def _rows(x, stride, tokens, columns, mask):
    at = x + tokens[:, None].to(tl.int64) * stride + columns[None, :]
    return tl.load(at, mask=mask, other=0.0)


@triton.jit(do_not_specialize=("num_seqs",))
def gated_delta_products_kernel(
    inverses, products, q, k, log_decay, beta, cu_seqlens, slots, num_seqs, num_heads, q_stride,
    q_head_stride, k_stride, k_head_stride, decay_stride, beta_stride, key_dim,
    GROUP: tl.constexpr, STATE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, heads): T and P of a chunk; both (tiles, heads, BLOCK_M, BLOCK_M) float32."""
    tile, head = tl.program_id(0), tl.program_id(1)
    sequence = sequence_of_tile(cu_seqlens, num_seqs, tile, BLOCK_M)
    if sequence >= num_seqs:
        return
    start = tl.load(cu_seqlens + sequence)
    count = tl.load(cu_seqlens + sequence + 1) - start
    first = (tile - (start // BLOCK_M + sequence)) * BLOCK_M
    if first >= count:
        return
    slot = 0
    if STATE:
        slot = tl.load(slots + sequence)
    if slot < 0:
        return
    # Rows are the earlier tokens j, columns the later ones i.
    index, dims = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K)
    tokens = start + first + index
    held = first + index < count
    mask = held[:, None] & (dims < key_dim)[None, :]
    keys = _rows(k + (head // GROUP) * k_head_stride, k_stride, tokens, dims, mask)
    queries = _rows(q + (head // GROUP) * q_head_stride, q_stride, tokens, dims, mask)
    places = tokens.to(tl.int64)
    logs = tl.load(log_decay + places * decay_stride + head, mask=held, other=0.0)
    betas = tl.load(beta + places * beta_stride + head, mask=held, other=0.0)
    is_later = index[None, :] > index[:, None]
    decays = tl.exp(tl.cumsum(tl.where(is_later, logs[None, :], 0.0), 1))

    found = tl.dot(keys, tl.trans(queries), input_precision=PRECISION) * decays
    found = tl.where(index[None, :] >= index[:, None], found, 0.0)
    base = (tile.to(tl.int64) * num_heads + head) * BLOCK_M * BLOCK_M
    tl.store(products + base + index[None, :] * BLOCK_M + index[:, None], found)

    known = tl.dot(keys, tl.trans(keys), input_precision=PRECISION) * decays * betas[None, :]
    known = tl.where(is_later, known, 0.0)
    inverse = tl.where(index[:, None] == index[None, :], 1.0, 0.0)
    # Forward substitution: with (nearly) equal keys, powers of L would cancel.
    for i in range(1, tl.minimum(BLOCK_M, count - first)):
        row = tl.sum(tl.where((index == i)[None, :], known, 0.0), 1)
        row = tl.sum(row[:, None] * inverse, 0)
        inverse -= tl.where((index == i)[:, None], row[None, :], 0.0)
    where = inverses + base + index[:, None] * BLOCK_M + index[None, :]
    tl.store(where, inverse * betas[None, :])


@triton.jit
def _state(state, value_dim, dims, columns, key_dim):
    """Pointers to some rows of a head's state, and which of them there are."""
    kept = (dims < key_dim)[:, None] & (columns < value_dim)[None, :]
    return state + dims[:, None] * value_dim + columns[None, :], kept


@triton.jit
def _dot(a, b, acc, EXACT: tl.constexpr, PRECISION: tl.constexpr):
    """acc + a b. EXACT: a has no digits beyond those of tf32, so that two products of it suffice,
    with the upper and the lower digits of b; three would take more registers than there are.
    """
    if EXACT and PRECISION == "tf32x3":
        upper = (b.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        acc = tl.dot(a, b - upper, acc, input_precision="tf32")
        return tl.dot(a, upper, acc, input_precision="tf32")
    else:
        return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def _product(x, stride, tokens, held, dims, key_dim, s, acc, PRECISION: tl.constexpr):
    """Adds rows of x, of these features, times some rows of the state."""
    tl.debug_barrier()
    rows = _rows(x, stride, tokens, dims, held[:, None] & (dims < key_dim)[None, :])
    is_exact: tl.constexpr = x.dtype.element_ty != tl.float32
    return _dot(rows.to(tl.float32), s, acc, is_exact, PRECISION)


@triton.jit
def _updated(s, k, stride, tokens, held, dims, key_dim, u, PRECISION: tl.constexpr):
    mask = held[None, :] & (dims < key_dim)[:, None]
    tl.debug_barrier()
    at = k + tokens[None, :].to(tl.int64) * stride + dims[:, None]
    keys = tl.load(at, mask=mask, other=0.0)
    is_exact: tl.constexpr = k.dtype.element_ty != tl.float32
    return _dot(keys.to(tl.float32), u, s, is_exact, PRECISION)


@triton.jit
def gated_delta_scan_kernel(
    out, inverses, products, q, k, v, log_decay, state, cu_seqlens, seq_lens, slots, num_heads,
    q_stride, q_head_stride, k_stride, k_head_stride, v_stride, v_head_stride, decay_stride,
    state_stride, key_dim, value_dim, GROUP: tl.constexpr, STATE: tl.constexpr,
    HALVES: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (sequences, heads, blocks of columns), with what the kernel above has stored. The state
    is in one or two parts of BLOCK_K rows, since products of more rows take too many registers.
    """
    sequence, head = tl.program_id(0), tl.program_id(1)
    start = tl.load(cu_seqlens + sequence)
    count = tl.load(cu_seqlens + sequence + 1) - start
    index, dims = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K)
    columns = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < value_dim
    out += head * value_dim
    s = tl.zeros((BLOCK_K, BLOCK_N), tl.float32)
    lower = s
    if STATE:
        slot = tl.load(slots + sequence).to(tl.int64)
        if slot < 0:
            for first in range(0, count, BLOCK_M):
                places = (start + first + index)[:, None].to(tl.int64) * num_heads * value_dim
                mask = (first + index < count)[:, None] & is_column[None, :]
                zero = tl.zeros((BLOCK_M, BLOCK_N), out.dtype.element_ty)
                tl.store(out + places + columns[None, :], zero, mask=mask)
            return
        state += slot * state_stride + head * key_dim * value_dim
        is_known = tl.load(seq_lens + sequence) > count
        at, kept = _state(state, value_dim, dims, columns, key_dim)
        s = tl.load(at, mask=kept & is_known, other=0.0).to(tl.float32)
        if HALVES == 2:
            at, kept = _state(state, value_dim, dims + BLOCK_K, columns, key_dim)
            lower = tl.load(at, mask=kept & is_known, other=0.0).to(tl.float32)
    q += (head // GROUP) * q_head_stride
    k += (head // GROUP) * k_head_stride
    v += head * v_head_stride
    base = ((start // BLOCK_M + sequence).to(tl.int64) * num_heads + head) * BLOCK_M * BLOCK_M
    square = base + index[:, None] * BLOCK_M + index[None, :]
    for first in range(0, count, BLOCK_M):
        tokens = start + first + index
        held = first + index < count
        mask = held[:, None] & is_column[None, :]
        gates = log_decay + tokens.to(tl.int64) * decay_stride + head
        decays = tl.exp(tl.cumsum(tl.load(gates, mask=held, other=0.0), 0))[:, None]
        zero = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        known = _product(k, k_stride, tokens, held, dims, key_dim, s, zero, PRECISION)
        found = _product(q, q_stride, tokens, held, dims, key_dim, s, zero, PRECISION)
        if HALVES == 2:
            more = dims + BLOCK_K
            known = _product(k, k_stride, tokens, held, more, key_dim, lower, known, PRECISION)
            found = _product(q, q_stride, tokens, held, more, key_dim, lower, found, PRECISION)
        u = _rows(v, v_stride, tokens, columns, mask).to(tl.float32) - decays * known
        u = tl.dot(tl.load(inverses + square), u, input_precision=PRECISION)
        found = tl.dot(tl.load(products + square), u, decays * found, input_precision=PRECISION)
        to = out + tokens[:, None].to(tl.int64) * num_heads * value_dim + columns[None, :]
        tl.store(to, found.to(out.dtype.element_ty), mask=mask)
        # Of the tokens after each one, up to the chunk's last.
        after = tl.load(gates + decay_stride, mask=first + index + 1 < count, other=0.0)
        after = tl.where(index < BLOCK_M - 1, after, 0.0)
        u *= tl.exp(tl.cumsum(after, 0, reverse=True))[:, None]
        whole = tl.exp(tl.sum(tl.load(gates, mask=held, other=0.0), 0))
        s = _updated(s * whole, k, k_stride, tokens, held, dims, key_dim, u, PRECISION)
        if HALVES == 2:
            more = dims + BLOCK_K
            lower *= whole
            lower = _updated(lower, k, k_stride, tokens, held, more, key_dim, u, PRECISION)
        square += num_heads * BLOCK_M * BLOCK_M
    if STATE:
        at, kept = _state(state, value_dim, dims, columns, key_dim)
        tl.store(at, s.to(at.dtype.element_ty), mask=kept)
        if HALVES == 2:
            at, kept = _state(state, value_dim, dims + BLOCK_K, columns, key_dim)
            tl.store(at, lower.to(at.dtype.element_ty), mask=kept)

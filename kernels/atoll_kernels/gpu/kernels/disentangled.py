"""Disentangled attention (He et al. 2021) over packed sequences, as flash attention.

One program handles BLOCK_M query rows of one head. The products of words with the tables' rows have
been computed before (``by_query``, ``by_key``); each pair of query and key looks up those of its
distance. Scores are in units of log2, so that exp2 is the only exponential.
"""

import triton
import triton.language as tl

from atoll_kernels.gpu.kernels.positions import sequence_of_tile


@triton.jit(do_not_specialize=("num_seqs",))
def disentangled_kernel(
    out, q, k, v, by_query, by_key, row_of, cu_seqlens, num_seqs, q_stride, k_stride, v_stride,
    q_head_stride, k_head_stride, v_head_stride, out_stride, product_stride, product_head_stride,
    reach, scale, head_dim, HAS_KEYS: tl.constexpr, HAS_QUERIES: tl.constexpr,
    EVEN_D: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, heads). ``row_of``: the tables' row by distance, from -reach to reach."""
    tile, head = tl.program_id(0), tl.program_id(1)
    sequence = sequence_of_tile(cu_seqlens, num_seqs, tile, BLOCK_M)
    if sequence >= num_seqs:
        return
    start = tl.load(cu_seqlens + sequence).to(tl.int64)
    length = tl.load(cu_seqlens + sequence + 1) - start.to(tl.int32)
    first_row = (tile - (start.to(tl.int32) // BLOCK_M + sequence)) * BLOCK_M
    if first_row >= length:
        return

    dims, rows = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_M)
    is_feature = dims < head_dim
    if EVEN_D:
        is_feature = dims >= 0
    is_row = first_row + rows < length
    q += (start + first_row) * q_stride + head * q_head_stride
    q_tile = tl.load(
        q + rows[:, None] * q_stride + dims[None, :],
        mask=is_row[:, None] & is_feature[None, :], other=0.0,
    )  # fmt: skip
    k += start * k_stride + head * k_head_stride
    v += start * v_stride + head * v_head_stride
    by_query += (start + first_row) * product_stride + head.to(tl.int64) * product_head_stride
    by_key += start * product_stride + head.to(tl.int64) * product_head_stride

    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    peak = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    keys = tl.arange(0, BLOCK_N)
    for first_key in range(0, length, BLOCK_N):
        is_key = first_key + keys < length
        held = is_key[:, None] & is_feature[None, :]
        k_tile = tl.load(k + keys[:, None] * k_stride + dims[None, :], mask=held, other=0.0)
        v_tile = tl.load(v + keys[:, None] * v_stride + dims[None, :], mask=held, other=0.0)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)
        offset = (first_key + keys)[None, :] - (first_row + rows)[:, None]
        found = tl.load(row_of + tl.minimum(tl.maximum(offset, -reach), reach) + reach)
        is_pair = is_row[:, None] & is_key[None, :]
        if HAS_KEYS:
            where = rows[:, None] * product_stride + found
            scores += tl.load(by_query + where, mask=is_pair, other=0.0).to(tl.float32)
        if HAS_QUERIES:
            where = keys[None, :] * product_stride + found
            scores += tl.load(by_key + where, mask=is_pair, other=0.0).to(tl.float32)
        scores = tl.where(is_key[None, :], scores * scale, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        weights = tl.math.exp2(scores - new_peak[:, None])
        decay = tl.math.exp2(peak - new_peak)
        total = total * decay + tl.sum(weights, 1)
        acc = acc * decay[:, None]
        acc = tl.dot(weights.to(v_tile.dtype), v_tile, acc, input_precision=PRECISION)
        peak = new_peak
        k += BLOCK_N * k_stride
        v += BLOCK_N * v_stride
        by_key += BLOCK_N * product_stride
    acc = acc / total[:, None]
    out += (start + first_row) * out_stride + head * head_dim
    tl.store(
        out + rows[:, None] * out_stride + dims[None, :], acc.to(out.dtype.element_ty),
        mask=is_row[:, None] & is_feature[None, :],
    )  # fmt: skip

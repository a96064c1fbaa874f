"""Attention over the latent cache of MLA: one key head, whose first features are the values.

A program handles one token, some of its query heads and one share of the keys, as in ``decode``.
All query heads read the same rows, so that a tile of heads uses tensor cores as a tile of tokens
would. A row is read once, for scores and for values:

    row:  [ latent (value_dim) | rotated key (rest_dim) ]
"""

import triton
import triton.language as tl

from atoll_kernels.gpu.kernels.positions import sequence_of_token


@triton.jit(
    do_not_specialize=("num_seqs", "num_splits", "table_stride"),
    do_not_specialize_on_alignment=("peaks", "totals"),
)
def latent_kernel(
    out, partial, peaks, totals, q, rows_cache, table, cu_seqlens_q, seq_lens, num_seqs, num_splits,
    num_heads, q_stride, q_head_stride, row_stride, block_stride, block_size, table_stride, scale,
    value_dim, rest_dim, IS_SPLIT: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Grid (tokens, blocks of heads, num_splits). partial: (tokens, num_heads, num_splits, BLOCK_V)
    float32; peaks, totals: (tokens, num_heads, num_splits) float32. With one split, the result is
    written to ``out`` directly.
    """
    token, head_block, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    sequence = sequence_of_token(cu_seqlens_q, num_seqs, token)
    owned = sequence < num_seqs
    length = tl.load(seq_lens + sequence, mask=owned, other=0)
    table += sequence.to(tl.int64) * table_stride
    high = length
    if CAUSAL:
        position = length - (tl.load(cu_seqlens_q + sequence + 1, mask=owned, other=0) - token)
        high = tl.minimum(high, position + 1)
    share = tl.cdiv(tl.cdiv(tl.maximum(high, 0), num_splits), BLOCK_N) * BLOCK_N
    first = split * share
    last = tl.minimum(first + share, high)

    values, rest = tl.arange(0, BLOCK_V), tl.arange(0, BLOCK_R)
    heads = head_block * BLOCK_H + tl.arange(0, BLOCK_H)
    is_head = heads < num_heads
    kept = is_head[:, None] & (values < value_dim)[None, :]
    q_rows = q + token.to(tl.int64) * q_stride + heads[:, None] * q_head_stride
    q_latent = tl.load(q_rows + values[None, :], mask=kept, other=0.0)
    q_rest = tl.load(
        q_rows + value_dim + rest[None, :], mask=is_head[:, None] & (rest < rest_dim)[None, :],
        other=0.0,
    )  # fmt: skip

    acc = tl.zeros((BLOCK_H, BLOCK_V), tl.float32)
    total = tl.zeros((BLOCK_H,), tl.float32)
    peak = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    for start in range(first, last, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        held = keys < last
        block = tl.load(table + keys // block_size, mask=held, other=0).to(tl.int64)
        rows = rows_cache + block * block_stride + (keys % block_size) * row_stride
        latent = tl.load(
            rows[:, None] + values[None, :], mask=held[:, None] & (values < value_dim)[None, :],
            other=0.0,
        )  # fmt: skip
        rotated = tl.load(
            rows[None, :] + value_dim + rest[:, None],
            mask=held[None, :] & (rest < rest_dim)[:, None], other=0.0,
        )  # fmt: skip
        scores = tl.dot(q_latent, tl.trans(latent), input_precision=PRECISION)
        scores = tl.dot(q_rest, rotated, scores, input_precision=PRECISION) * scale
        scores = tl.where(held[None, :], scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        # A row of a tile always has a key.
        weights = tl.math.exp2(scores - new_peak[:, None])
        decay = tl.math.exp2(peak - new_peak)
        total = total * decay + tl.sum(weights, 1)
        weights = weights.to(latent.dtype)
        acc = tl.dot(weights, latent, acc * decay[:, None], input_precision=PRECISION)
        peak = new_peak

    places = token.to(tl.int64) * num_heads + heads
    if not IS_SPLIT:
        # Without a key, acc and total are 0.
        acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        where = out + places[:, None] * value_dim + values[None, :]
        tl.store(where, acc.to(out.dtype.element_ty), mask=kept)
    else:
        slots = places * num_splits + split
        tl.store(peaks + slots, peak, mask=is_head)
        tl.store(totals + slots, total, mask=is_head)
        if first < last:
            tl.store(partial + slots[:, None] * BLOCK_V + values[None, :], acc, mask=kept)

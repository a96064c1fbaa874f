"""Attention of single new tokens over the paged cache, the keys split among programs.

A program handles one token, one key-value head with all its query heads, and one share of the keys.
Lengths are read on the device; neither the grid nor the scratch memory depends on them, so that a
step can be captured in a graph. A share without keys stores a peak of -inf, which the second kernel
skips. Arguments that change from step to step are not specialized: see ``flash``.
"""

import triton
import triton.language as tl

from atoll_kernels.gpu.kernels.positions import (
    cap_and_bias,
    is_visible,
    sequence_of_token,
    sink_mass,
)


@triton.jit(
    do_not_specialize=("num_seqs", "num_splits", "table_stride"),
    do_not_specialize_on_alignment=("peaks", "totals"),
)
def decode_kernel(
    out, partial, peaks, totals, q, k_cache, v_cache, table, cu_seqlens_q, seq_lens, slopes,
    relative_bias, sinks, num_seqs, num_splits, num_heads, q_stride, q_head_stride, k_stride,
    k_head_stride, v_stride, v_head_stride, k_block_stride, v_block_stride, block_size,
    table_stride, bias_stride, distance, window, scale, head_dim, GROUP: tl.constexpr,
    IS_SPLIT: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    ALIBI: tl.constexpr, RELATIVE: tl.constexpr, SINKS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid (tokens, num_kv_heads, num_splits). partial: (tokens, num_heads, num_splits, BLOCK_D)
    float32; peaks, totals: (tokens, num_heads, num_splits) float32. With one split, the result is
    written to ``out`` directly.
    """
    token, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    sequence = sequence_of_token(cu_seqlens_q, num_seqs, token)
    owned = sequence < num_seqs
    length = tl.load(seq_lens + sequence, mask=owned, other=0)
    position = length - (tl.load(cu_seqlens_q + sequence + 1, mask=owned, other=0) - token)
    table += sequence.to(tl.int64) * table_stride

    low = 0
    high = length
    if CAUSAL:
        high = tl.minimum(high, position + 1)
    if WINDOW:
        low = tl.maximum(position - window + 1, 0) // BLOCK_N * BLOCK_N
        high = tl.minimum(high, position + window)
    share = tl.cdiv(tl.cdiv(tl.maximum(high - low, 0), num_splits), BLOCK_N) * BLOCK_N
    first = low + split * share
    last = tl.minimum(first + share, high)

    dims = tl.arange(0, BLOCK_D)
    within_group = tl.arange(0, BLOCK_H)
    heads = kv_head * GROUP + within_group
    kept = (within_group < GROUP)[:, None] & (dims[None, :] < head_dim)
    q_row = q + token.to(tl.int64) * q_stride
    q_tile = tl.load(q_row + heads[:, None] * q_head_stride + dims[None, :], mask=kept, other=0.0)
    slope = tl.zeros((BLOCK_H,), tl.float32)
    if ALIBI:
        slope = tl.load(slopes + heads, mask=within_group < GROUP, other=0.0).to(tl.float32)
        slope *= 1.4426950408889634
    bias_row = relative_bias + tl.where(within_group < GROUP, heads, 0) * bias_stride

    acc = tl.zeros((BLOCK_H, BLOCK_D), tl.float32)
    total = tl.zeros((BLOCK_H,), tl.float32)
    peak = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    for start in range(first, last, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        offset = keys - position
        held = (keys < last) & is_visible(offset, window, CAUSAL, WINDOW)
        block = tl.load(table + keys // block_size, mask=held, other=0).to(tl.int64)
        k_rows = k_cache + block * k_block_stride + (keys % block_size) * k_stride
        v_rows = v_cache + block * v_block_stride + (keys % block_size) * v_stride
        k = tl.load(
            k_rows[None, :] + kv_head * k_head_stride + dims[:, None],
            mask=held[None, :] & (dims[:, None] < head_dim), other=0.0,
        )  # fmt: skip
        v = tl.load(
            v_rows[:, None] + kv_head * v_head_stride + dims[None, :],
            mask=held[:, None] & (dims[None, :] < head_dim), other=0.0,
        )  # fmt: skip
        scores = tl.dot(q_tile, k, input_precision=PRECISION) * scale
        scores = cap_and_bias(
            scores, offset[None, :], slope[:, None], bias_row[:, None], distance, SOFTCAP, ALIBI,
            RELATIVE,
        )  # fmt: skip
        scores = tl.where(held[None, :], scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = tl.math.exp2(scores - base[:, None])
        decay = tl.math.exp2(peak - base)
        total = total * decay + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v.dtype), v, acc * decay[:, None], input_precision=PRECISION)
        peak = new_peak

    rows = token.to(tl.int64) * num_heads + heads
    if not IS_SPLIT:
        if SINKS:
            total += sink_mass(sinks + tl.where(within_group < GROUP, heads, 0), peak)
        acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        where = out + rows[:, None] * head_dim + dims[None, :]
        tl.store(where, acc.to(out.dtype.element_ty), mask=kept)
    else:
        slots = rows * num_splits + split
        tl.store(peaks + slots, peak, mask=within_group < GROUP)
        tl.store(totals + slots, total, mask=within_group < GROUP)
        if first < last:
            tl.store(partial + slots[:, None] * BLOCK_D + dims[None, :], acc, mask=kept)


@triton.jit(do_not_specialize=("num_splits",), do_not_specialize_on_alignment=("peaks", "totals"))
def combine_kernel(
    out, partial, peaks, totals, sinks, head_dim, num_heads, num_splits, SINKS: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid (tokens * num_heads,): combines the shares; a row without any key becomes 0."""
    row = tl.program_id(0).to(tl.int64)
    splits, dims = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    slots = row * num_splits + splits
    peak = tl.load(peaks + slots, mask=splits < num_splits, other=float("-inf"))
    total = tl.load(totals + slots, mask=splits < num_splits, other=0.0)
    filled = peak > float("-inf")
    top = tl.max(peak, 0)
    weights = tl.where(filled, tl.math.exp2(peak - tl.where(top == float("-inf"), 0.0, top)), 0.0)
    shares = tl.load(
        partial + slots[:, None] * BLOCK_D + dims[None, :],
        mask=filled[:, None] & (dims[None, :] < head_dim), other=0.0,
    )  # fmt: skip
    whole = tl.sum(weights * total, 0)
    if SINKS:
        whole += sink_mass(sinks + row % num_heads, top)
    value = tl.sum(weights[:, None] * shares, 0) / tl.where(whole == 0.0, 1.0, whole)
    where = out + row * head_dim + dims
    tl.store(where, value.to(out.dtype.element_ty), mask=dims < head_dim)

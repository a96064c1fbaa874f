"""Flash attention (Dao 2023) over packed sequences, with keys packed too or in a paged cache.

One program handles BLOCK_M query rows of one head. Its keys fall into three ranges, of which only
the outer two need a mask:

    first ........ full_from ............ full_to ........ last
      window's edge |  visible to all rows  | diagonal or end

Scores are in units of log2, so that exp2 is the only exponential.

Triton-lang specializes kernels on integer arguments that are 1 or divisible by 16, and each variant
takes seconds to compile while requests wait. Counts that change from batch to batch are exempt.
"""

import triton
import triton.language as tl

from atoll_kernels.gpu.kernels.positions import (
    cap_and_bias,
    is_visible,
    sequence_of_tile,
    sink_mass,
)


@triton.jit
def _visit(
    acc, total, peak, q, k_base, v_base, k_stride, v_stride, table, k_block_stride, v_block_stride,
    block_size, first, last, num_keys, positions, window, slope, bias_row, distance, scale,
    head_dim, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    ALIBI: tl.constexpr, RELATIVE: tl.constexpr, PAGED: tl.constexpr, MASKED: tl.constexpr,
    EVEN_D: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Adds keys [first, last) to the running softmax."""
    dims = tl.arange(0, BLOCK_D)
    for start in range(first, last, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        held = keys < num_keys
        if PAGED:
            block = tl.load(table + keys // block_size, mask=held, other=-1).to(tl.int64)
            # Blocks behind the window may have been freed, and the tile at its edge spans them.
            held = held & (block >= 0)
            block = tl.maximum(block, 0)
            within = keys % block_size
            k_rows = k_base + block * k_block_stride + within * k_stride
            v_rows = v_base + block * v_block_stride + within * v_stride
        else:
            k_rows = k_base + keys.to(tl.int64) * k_stride
            v_rows = v_base + keys.to(tl.int64) * v_stride
        k_mask = dims[:, None] < head_dim
        v_mask = dims[None, :] < head_dim
        if MASKED:
            k_mask = k_mask & held[None, :]
            v_mask = v_mask & held[:, None]
        if EVEN_D and not MASKED:
            k = tl.load(k_rows[None, :] + dims[:, None])
            v = tl.load(v_rows[:, None] + dims[None, :])
        else:
            k = tl.load(k_rows[None, :] + dims[:, None], mask=k_mask, other=0.0)
            v = tl.load(v_rows[:, None] + dims[None, :], mask=v_mask, other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION)
        offset = keys[None, :] - positions[:, None]
        is_scaled: tl.constexpr = ALIBI or (RELATIVE or SOFTCAP > 0)
        if is_scaled:
            scores = cap_and_bias(
                scores * scale, offset, slope, bias_row, distance, SOFTCAP, ALIBI, RELATIVE
            )
        if MASKED:
            visible = held[None, :] & is_visible(offset, window, CAUSAL, WINDOW)
            scores = tl.where(visible, scores, float("-inf"))
        # Otherwise scaling and the subtraction of the peak are one instruction per score.
        factor = 1.0 if is_scaled else scale
        new_peak = tl.maximum(peak, tl.max(scores, 1) * factor)
        base = new_peak
        if MASKED:
            base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = tl.math.exp2(scores * factor - base[:, None])
        decay = tl.math.exp2(peak - base)
        total = total * decay + tl.sum(weights, 1)
        acc = acc * decay[:, None]
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=PRECISION)
        peak = new_peak
    return acc, total, peak


@triton.jit(do_not_specialize=("num_seqs", "num_tiles", "table_stride"))
def flash_kernel(
    out, q, k, v, table, cu_seqlens_q, key_ends, slopes, relative_bias, sinks, num_seqs, num_tiles,
    q_stride, k_stride, v_stride, q_head_stride, k_head_stride, v_head_stride, out_stride,
    table_stride, k_block_stride, v_block_stride, block_size, bias_stride, distance, window, scale,
    head_dim, GROUP: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr, ALIBI: tl.constexpr, RELATIVE: tl.constexpr, SINKS: tl.constexpr,
    PAGED: tl.constexpr, EVEN_D: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, heads). ``key_ends``: cu_seqlens_k, or seq_lens where the keys are paged."""
    # The last rows of a causal sequence see most keys: the long tiles start first.
    tile = num_tiles - 1 - tl.program_id(0)
    head = tl.program_id(1)
    sequence = sequence_of_tile(cu_seqlens_q, num_seqs, tile, BLOCK_M)
    if sequence >= num_seqs:
        return
    start_q = tl.load(cu_seqlens_q + sequence)
    num_queries = tl.load(cu_seqlens_q + sequence + 1) - start_q
    first_row = (tile - (start_q // BLOCK_M + sequence)) * BLOCK_M
    if first_row >= num_queries:
        return
    if PAGED:
        num_keys = tl.load(key_ends + sequence)
        k_base, v_base = k, v
        table += sequence.to(tl.int64) * table_stride
    else:
        start_k = tl.load(key_ends + sequence)
        num_keys = tl.load(key_ends + sequence + 1) - start_k
        k_base = k + start_k.to(tl.int64) * k_stride
        v_base = v + start_k.to(tl.int64) * v_stride
    k_base += (head // GROUP) * k_head_stride
    v_base += (head // GROUP) * v_head_stride

    dims = tl.arange(0, BLOCK_D)
    rows = first_row + tl.arange(0, BLOCK_M)
    positions = rows + (num_keys - num_queries)
    kept = (rows < num_queries)[:, None] & (dims[None, :] < head_dim)
    tokens = (start_q + rows).to(tl.int64)
    q_tile = tl.load(
        q + tokens[:, None] * q_stride + head * q_head_stride + dims[None, :], mask=kept, other=0.0
    )
    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes + head).to(tl.float32) * 1.4426950408889634
    bias_row = relative_bias + head * bias_stride

    low = first_row + (num_keys - num_queries)
    high = tl.minimum(first_row + BLOCK_M, num_queries) - 1 + (num_keys - num_queries)
    last = num_keys
    full_to = num_keys
    if CAUSAL:
        last = tl.minimum(last, high + 1)
        full_to = tl.minimum(full_to, low + 1)
    first = 0
    full_from = 0
    if WINDOW:
        last = tl.minimum(last, high + window)
        full_to = tl.minimum(full_to, low + window)
        first = tl.maximum(low - window + 1, 0) // BLOCK_N * BLOCK_N
        full_from = (tl.maximum(high - window + 1, 0) + BLOCK_N - 1) // BLOCK_N * BLOCK_N
        full_from = tl.maximum(tl.minimum(full_from, last), first)
    full_to = tl.maximum(tl.maximum(full_to, 0) // BLOCK_N * BLOCK_N, full_from)

    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    peak = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    for part in tl.static_range(0 if WINDOW else 1, 3):
        start = first if part == 0 else (full_from if part == 1 else full_to)
        end = full_from if part == 0 else (full_to if part == 1 else last)
        acc, total, peak = _visit(
            acc, total, peak, q_tile, k_base, v_base, k_stride, v_stride, table, k_block_stride,
            v_block_stride, block_size, start, end, num_keys, positions, window, slope, bias_row,
            distance, scale, head_dim, CAUSAL, WINDOW, SOFTCAP, ALIBI, RELATIVE, PAGED, part != 1,
            EVEN_D, PRECISION, BLOCK_N, BLOCK_D,
        )  # fmt: skip
    if SINKS:
        total += sink_mass(sinks + head, peak)
    # A row without a visible key has acc 0 and, but for a sink, total 0.
    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    where = out + tokens[:, None] * out_stride + head * head_dim + dims[None, :]
    tl.store(where, acc.to(out.dtype.element_ty), mask=kept)

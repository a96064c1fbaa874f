"""What the attention kernels share: finding a sequence, and what is added to a score."""

import triton
import triton.language as tl


@triton.jit
def sequence_of_tile(cu_seqlens, num_seqs, tile, BLOCK_M: tl.constexpr):
    """The sequence that tile ``tile`` belongs to, by bisection.

    Sequence i owns the tiles from cu_seqlens[i] // BLOCK_M + i on: one more than it may need, so
    that the grid depends on the number of tokens alone. May return num_seqs: the tile has no work.
    """
    low = 0
    high = num_seqs + 1
    while low < high:
        middle = (low + high) // 2
        if tl.load(cu_seqlens + middle) // BLOCK_M + middle <= tile:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def sequence_of_token(cu_seqlens, num_seqs, token):
    """The last sequence that starts at or before ``token``; num_seqs if all end before it."""
    low = 0
    high = num_seqs + 1
    while low < high:
        middle = (low + high) // 2
        if tl.load(cu_seqlens + middle) <= token:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def add_bias(
    scores, offset, slope, bias_row, distance, ALIBI: tl.constexpr, RELATIVE: tl.constexpr
):
    """Adds the position terms to scores in units of log2; offset is key less query position."""
    if ALIBI:
        scores -= slope * tl.abs(offset).to(tl.float32)
    if RELATIVE:
        index = tl.minimum(tl.maximum(offset, -distance), distance) + distance
        scores += tl.load(bias_row + index).to(tl.float32) * 1.4426950408889634
    return scores


@triton.jit
def is_visible(offset, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """The mask of ``atoll_kernels.attention``, for offset = key less query position."""
    visible = offset == offset
    if CAUSAL:
        visible = visible & (offset <= 0)
    if WINDOW:
        visible = visible & (tl.abs(offset) < window)
    return visible

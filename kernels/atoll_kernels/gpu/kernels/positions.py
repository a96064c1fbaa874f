"""What the attention kernels share: finding a sequence, and what is added to a score."""

import triton
import triton.language as tl


@triton.jit
def sequence_of_tile(cu_seqlens, num_seqs, tile, BLOCK_M: tl.constexpr):
    """The sequence that tile ``tile`` belongs to.

    Sequence i owns the tiles from cu_seqlens[i] // BLOCK_M + i on: one more than it may need, so
    that the grid depends on the number of tokens alone. May return num_seqs: the tile has no work.
    Counted, not bisected: these loads do not wait for one another.
    """
    count = 0
    for start in range(0, num_seqs + 1, 128):
        index = start + tl.arange(0, 128)
        held = index <= num_seqs
        firsts = tl.load(cu_seqlens + index, mask=held, other=0)
        count += tl.sum((held & (firsts // BLOCK_M + index <= tile)).to(tl.int32), 0)
    return count - 1


@triton.jit
def sequence_of_token(cu_seqlens, num_seqs, token):
    """The last sequence that starts at or before ``token``; num_seqs if all end before it."""
    count = 0
    for start in range(0, num_seqs + 1, 128):
        index = start + tl.arange(0, 128)
        held = index <= num_seqs
        firsts = tl.load(cu_seqlens + index, mask=held, other=0)
        count += tl.sum((held & (firsts <= token)).to(tl.int32), 0)
    return count - 1


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

"""What the attention kernels share: finding a sequence, the soft cap, biases and the mask."""

import triton
import triton.language as tl


@triton.jit
def sequence_of_tile(cu_seqlens, num_seqs, tile, BLOCK_M: tl.constexpr):
    """The sequence that tile ``tile`` belongs to.

    Sequence i owns the tiles from cu_seqlens[i] // BLOCK_M + i on, at most one more than it needs,
    so that the grid depends only on the number of tokens. Returns num_seqs for a tile without work.
    Counting instead of bisecting makes the loads independent of each other.
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
def cap_and_bias(
    scores, offset, slope, bias_row, distance, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr,
    RELATIVE: tl.constexpr,
):  # fmt: skip
    """Scores in units of log2, as is SOFTCAP (0: none); offset: key position - query position."""
    if SOFTCAP > 0:
        # SOFTCAP * tanh(scores / SOFTCAP), with tanh(x) = 1 - 2 / (e^2x + 1)
        power = tl.math.exp2(scores * (2.8853900817779268 / SOFTCAP))
        scores = SOFTCAP - 2 * SOFTCAP / (power + 1.0)
    if ALIBI:
        scores -= slope * tl.abs(offset).to(tl.float32)
    if RELATIVE:
        index = tl.minimum(tl.maximum(offset, -distance), distance) + distance
        scores += tl.load(bias_row + index).to(tl.float32) * 1.4426950408889634
    return scores


@triton.jit
def sink_mass(sink, peak):
    """What a head's sink adds to the sums of rows with these peaks; sink: a pointer, or several."""
    logit = tl.load(sink).to(tl.float32) * 1.4426950408889634
    return tl.math.exp2(logit - tl.where(peak == float("-inf"), 0.0, peak))


@triton.jit
def is_visible(offset, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """The mask of ``atoll_kernels.attention``; offset: key position - query position."""
    visible = offset == offset
    if CAUSAL:
        visible = visible & (offset <= 0)
    if WINDOW:
        visible = visible & (tl.abs(offset) < window)
    return visible

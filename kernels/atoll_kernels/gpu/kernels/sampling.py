"""Temperature, top-k, top-p and sampling in one launch, without sorting the vocabulary.

Both limits are thresholds of the score, found by bisection of integers in the order of the floats:
32 passes over a row that is kept in registers if it fits (WHOLE), else in the L2 cache. Equal
scores are kept or removed together.
"""

import triton
import triton.language as tl


@triton.jit
def _key(score):
    """An int32 with the order of the float."""
    bits = score.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _scores(row, start, vocab_size, temperature, BLOCK: tl.constexpr):
    columns = start + tl.arange(0, BLOCK)
    mask = columns < vocab_size
    loaded = tl.load(row + columns, mask=mask, other=float("-inf")).to(tl.float32)
    # Adding 0.0 turns -0.0 into 0.0, which must have the same key.
    return loaded / temperature + 0.0


@triton.jit
def _num_reaching(
    row, keys, least, vocab_size, temperature, WHOLE: tl.constexpr, BLOCK: tl.constexpr
):
    """The number of scores with a key of at least ``least``."""
    least = least.to(tl.int32)
    if WHOLE:
        count = tl.sum((keys >= least).to(tl.int32), 0)
    else:
        counts = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, vocab_size, BLOCK):
            key = _key(_scores(row, start, vocab_size, temperature, BLOCK))
            held = start + tl.arange(0, BLOCK) < vocab_size
            counts += ((key >= least) & held).to(tl.int32)
        count = tl.sum(counts, 0)
    return count


@triton.jit
def _mass_above(
    row, keys, limit, peak, vocab_size, temperature, WHOLE: tl.constexpr, BLOCK: tl.constexpr
):
    """The sum of exp(score - peak) over scores with a key above ``limit``."""
    limit = limit.to(tl.int32)
    if WHOLE:
        scores = (keys ^ ((keys >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
        mass = tl.sum(tl.where(keys > limit, tl.exp(scores - peak), 0.0), 0)
    else:
        masses = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, vocab_size, BLOCK):
            score = _scores(row, start, vocab_size, temperature, BLOCK)
            masses += tl.where(_key(score) > limit, tl.exp(score - peak), 0.0)
        mass = tl.sum(masses, 0)
    return mass


@triton.jit
def sample_kernel(
    ids, logits, temperatures, top_ks, top_ps, uniforms, stride, vocab_size, TOP_K: tl.constexpr,
    TOP_P: tl.constexpr, WHOLE: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (rows,). top_k >= vocab_size and top_p >= 1 are no limits. With WHOLE, BLOCK_V is at
    least vocab_size.
    """
    index = tl.program_id(0).to(tl.int64)
    row = logits + index * stride
    temperature = tl.load(temperatures + index)

    peaks = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, vocab_size, BLOCK):
        peaks = tl.maximum(peaks, _scores(row, start, vocab_size, temperature, BLOCK))
    peak = tl.max(peaks, 0)
    top_key = _key(peak).to(tl.int64)
    keys = tl.zeros((BLOCK_V,), tl.int32)
    if WHOLE:
        # Keys beyond the vocabulary are less than that of -inf.
        held = tl.arange(0, BLOCK_V) < vocab_size
        keys = tl.where(held, _key(_scores(row, 0, vocab_size, temperature, BLOCK_V)), -(2**31))

    # The lowest key that is kept.
    floor = tl.full((), -(2**31) + 1, tl.int64)
    if TOP_K:
        top_k = tl.load(top_ks + index)
        low, high = floor, top_key
        if top_k >= vocab_size:
            high = low
        while low < high:
            middle = (low + high + 1) >> 1
            if _num_reaching(row, keys, middle, vocab_size, temperature, WHOLE, BLOCK) >= top_k:
                low = middle
            else:
                high = middle - 1
        floor = low
    if TOP_P:
        top_p = tl.load(top_ps + index)
        if top_p < 1.0:
            limit = top_p * _mass_above(
                row, keys, floor - 1, peak, vocab_size, temperature, WHOLE, BLOCK
            )
            low, high = floor, top_key
            # The lowest key with less than top_p of the mass above it.
            while low < high:
                middle = (low + high) >> 1
                mass = _mass_above(row, keys, middle, peak, vocab_size, temperature, WHOLE, BLOCK)
                if mass < limit:
                    high = middle
                else:
                    low = middle + 1
            floor = low

    whole = tl.zeros((), tl.float64)
    for start in range(0, vocab_size, BLOCK):
        score = _scores(row, start, vocab_size, temperature, BLOCK)
        mass = tl.where(_key(score).to(tl.int64) >= floor, tl.exp(score - peak), 0.0)
        whole += tl.sum(mass.to(tl.float64), 0)
    point = tl.load(uniforms + index) * whole

    # The first token at which the cumulative mass exceeds the point. If rounding prevents that, the
    # last token with any mass.
    before = tl.zeros((), tl.float64)
    chosen = tl.zeros((), tl.int32)
    found = tl.zeros((), tl.int32)
    for start in range(0, vocab_size, BLOCK):
        if found == 0:
            score = _scores(row, start, vocab_size, temperature, BLOCK)
            columns = start + tl.arange(0, BLOCK)
            mass = tl.where(_key(score).to(tl.int64) >= floor, tl.exp(score - peak), 0.0)
            running = before + tl.cumsum(mass.to(tl.float64), 0)
            reached = (running > point) & (mass > 0.0)
            first = tl.min(tl.where(reached, columns, vocab_size), 0)
            last = tl.max(tl.where(mass > 0.0, columns, -1), 0)
            if first < vocab_size:
                chosen = first
                found += 1
            elif last >= 0:
                chosen = last
            before += tl.sum(mass.to(tl.float64), 0)
    tl.store(ids + index, chosen.to(tl.int64))

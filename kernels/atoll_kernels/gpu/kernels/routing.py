"""The router of a mixture of experts, and grouping of tokens by expert, on the device."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=("num_tokens",))
def route_kernel(
    chosen, shares, logits, num_tokens, num_experts, stride, TOP_K: tl.constexpr,
    RENORMALIZE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of tokens,). The best TOP_K of each row and their shares of the softmax over
    all experts; with RENORMALIZE their own softmax. chosen int32, shares float32: (tokens, TOP_K).
    """
    tokens = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    experts = tl.arange(0, BLOCK_E)
    held = tokens < num_tokens
    scores = tl.load(
        logits + tokens[:, None] * stride + experts[None, :],
        mask=held[:, None] & (experts < num_experts)[None, :], other=float("-inf"),
    ).to(tl.float32)  # fmt: skip
    top = tl.max(scores, 1)
    top = tl.where(top == float("-inf"), 0.0, top)
    mass = tl.sum(tl.exp(scores - top[:, None]), 1)
    ranks = tl.arange(0, BLOCK_K)
    weights = tl.zeros((BLOCK_T, BLOCK_K), tl.float32)
    best = tl.zeros((BLOCK_T, BLOCK_K), tl.int32)
    for rank in tl.static_range(TOP_K):
        # In a row of NaN, the index could be beyond the last expert.
        pick = tl.minimum(tl.argmax(scores, 1).to(tl.int32), num_experts - 1)
        is_rank = ranks[None, :] == rank
        weights = tl.where(is_rank, tl.exp(tl.max(scores, 1) - top)[:, None], weights)
        best = tl.where(is_rank, pick[:, None], best)
        scores = tl.where(experts[None, :] == pick[:, None], float("-inf"), scores)
    where = tokens[:, None] * TOP_K + ranks[None, :]
    mask = held[:, None] & (ranks < TOP_K)[None, :]
    tl.store(chosen + where, best, mask=mask)
    if RENORMALIZE:
        mass = tl.sum(weights, 1)
    tl.store(shares + where, weights / mass[:, None], mask=mask)


@triton.jit(
    do_not_specialize=("num_slots", "num_tiles"),
    do_not_specialize_on_alignment=("tile_experts", "tile_rows", "slots"),
)
def group_kernel(
    slots, tile_experts, tile_rows, chosen, num_slots, num_experts, num_tiles,
    BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Grid (1,). A counting sort of slots by expert, padded to whole tiles for each expert.

    slots: (num_tiles * BLOCK_M,) int32; padding is not written. tile_experts: -1 for unused tiles.
    """
    experts = tl.arange(0, BLOCK_E)
    lanes = tl.arange(0, CHUNK)
    counts = tl.zeros((BLOCK_E,), tl.int32)
    for start in range(0, num_slots, CHUNK):
        mine = tl.load(chosen + start + lanes, mask=start + lanes < num_slots, other=-1)
        counts += tl.sum((mine[:, None] == experts[None, :]).to(tl.int32), 0)
    padded = (counts + BLOCK_M - 1) // BLOCK_M * BLOCK_M
    ends = tl.cumsum(padded, 0)
    starts = ends - padded

    for start in range(0, num_tiles, CHUNK):
        tiles = start + lanes
        first_row = tiles * BLOCK_M
        owner = tl.sum((ends[None, :] <= first_row[:, None]).to(tl.int32), 1)
        mine = owner[:, None] == experts[None, :]
        filled = tl.sum(tl.where(mine, (starts + counts)[None, :], 0), 1) - first_row
        is_real = owner < num_experts
        tl.store(tile_experts + tiles, tl.where(is_real, owner, -1), mask=tiles < num_tiles)
        filled = tl.where(is_real, tl.minimum(filled, BLOCK_M), 0)
        tl.store(tile_rows + tiles, filled, mask=tiles < num_tiles)

    places = starts
    for start in range(0, num_slots, CHUNK):
        held = start + lanes < num_slots
        mine = tl.load(chosen + start + lanes, mask=held, other=-1)
        is_mine = (mine[:, None] == experts[None, :]).to(tl.int32)
        rank = tl.cumsum(is_mine, 0) - is_mine
        place = tl.sum(is_mine * (places[None, :] + rank), 1)
        tl.store(slots + place, start + lanes, mask=held)
        places += tl.sum(is_mine, 0)

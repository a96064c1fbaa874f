"""Rotary embedding of queries and keys, and the write of keys and values to the cache."""

import triton
import triton.language as tl


@triton.jit
def _rotate(row, head_stride, heads, num_heads, cosine, sine, half, columns):
    """Rotates, in place, the heads of one token; returns the two rotated halves."""
    mask = (heads < num_heads)[:, None] & (columns < half)[None, :]
    where = row + heads[:, None] * head_stride + columns[None, :]
    first = tl.load(where, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(where + half, mask=mask, other=0.0).to(tl.float32)
    turned = first * cosine - second * sine
    other = second * cosine + first * sine
    tl.store(where, turned.to(row.dtype.element_ty), mask=mask)
    tl.store(where + half, other.to(row.dtype.element_ty), mask=mask)
    return turned, other, mask


@triton.jit
def rope_kernel(
    q, k, v, k_cache, v_cache, positions, slots, cos, sin, q_stride, q_head_stride, k_stride,
    k_head_stride, v_stride, v_head_stride, cache_stride, cache_head_stride, num_heads,
    num_kv_heads, half, head_dim, num_q_blocks, KEYS: tl.constexpr, WRITE: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid (tokens, blocks of query heads, then blocks of key heads)."""
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    columns = tl.arange(0, BLOCK_HALF)
    position = tl.load(positions + token)
    cosine = tl.load(cos + position * half + columns, mask=columns < half, other=0.0)[None, :]
    sine = tl.load(sin + position * half + columns, mask=columns < half, other=0.0)[None, :]
    if block < num_q_blocks:
        heads = block * BLOCK_H + tl.arange(0, BLOCK_H)
        _rotate(q + token * q_stride, q_head_stride, heads, num_heads, cosine, sine, half, columns)
    elif KEYS:
        heads = (block - num_q_blocks) * BLOCK_H + tl.arange(0, BLOCK_H)
        turned, other, mask = _rotate(
            k + token * k_stride, k_head_stride, heads, num_kv_heads, cosine, sine, half, columns
        )
        if WRITE:
            slot = tl.load(slots + token)
            mask = mask & (slot >= 0)
            row = slot * cache_stride + heads[:, None] * cache_head_stride
            where = k_cache + row + columns[None, :]
            tl.store(where, turned.to(k_cache.dtype.element_ty), mask=mask)
            tl.store(where + half, other.to(k_cache.dtype.element_ty), mask=mask)
            dims = tl.arange(0, BLOCK_D)
            kept = (heads < num_kv_heads)[:, None] & (dims < head_dim)[None, :] & (slot >= 0)
            rest = kept & (dims >= 2 * half)[None, :]
            still = tl.load(
                k + token * k_stride + heads[:, None] * k_head_stride + dims[None, :], mask=rest
            )
            tl.store(k_cache + row + dims[None, :], still.to(k_cache.dtype.element_ty), mask=rest)
            value = tl.load(
                v + token * v_stride + heads[:, None] * v_head_stride + dims[None, :], mask=kept
            )
            tl.store(v_cache + row + dims[None, :], value.to(v_cache.dtype.element_ty), mask=kept)


@triton.jit
def write_kv_kernel(
    k, v, k_cache, v_cache, slots, k_stride, k_head_stride, v_stride, v_head_stride, cache_stride,
    cache_head_stride, num_kv_heads, head_dim, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid (tokens, blocks of heads)."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    dims = tl.arange(0, BLOCK_D)
    slot = tl.load(slots + token)
    mask = (heads < num_kv_heads)[:, None] & (dims < head_dim)[None, :] & (slot >= 0)
    key = tl.load(k + token * k_stride + heads[:, None] * k_head_stride + dims[None, :], mask=mask)
    value = tl.load(
        v + token * v_stride + heads[:, None] * v_head_stride + dims[None, :], mask=mask
    )
    where = slot * cache_stride + heads[:, None] * cache_head_stride + dims[None, :]
    tl.store(k_cache + where, key.to(k_cache.dtype.element_ty), mask=mask)
    tl.store(v_cache + where, value.to(v_cache.dtype.element_ty), mask=mask)

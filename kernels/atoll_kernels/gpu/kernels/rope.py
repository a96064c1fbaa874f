"""Rotary embedding of queries and keys, and the write of keys and values to the cache."""

import triton
import triton.language as tl


@triton.jit
def _rotate(row, head_stride, heads, num_heads, cosine, sine, half, columns):
    """Rotates the heads of one token in place; returns the two rotated halves and their mask."""
    mask = (heads < num_heads)[:, None] & (columns < half)[None, :]
    where = row + heads[:, None] * head_stride + columns[None, :]
    first = tl.load(where, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(where + half, mask=mask, other=0.0).to(tl.float32)
    rotated = first * cosine - second * sine
    other = second * cosine + first * sine
    tl.store(where, rotated.to(row.dtype.element_ty), mask=mask)
    tl.store(where + half, other.to(row.dtype.element_ty), mask=mask)
    return rotated, other, mask


@triton.jit
def _copy(row, to, heads, head_stride, to_stride, dims, mask):
    where = heads[:, None] * head_stride + dims[None, :]
    value = tl.load(row + where, mask=mask)
    where = heads[:, None] * to_stride + dims[None, :]
    tl.store(to + where, value.to(to.dtype.element_ty), mask=mask)


@triton.jit
def rope_kernel(
    q, k, v, k_cache, v_cache, positions, slots, cos, sin, q_stride, q_head_stride, k_stride,
    k_head_stride, v_stride, v_head_stride, cache_stride, cache_head_stride, num_heads,
    num_kv_heads, half, head_dim, num_q_blocks, VALUES: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_HALF: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid (tokens, blocks of query heads, then of key heads). half: of the rotated features.
    Without VALUES, only keys are written.
    """
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    columns = tl.arange(0, BLOCK_HALF)
    position = tl.load(positions + token)
    cosine = tl.load(cos + position * half + columns, mask=columns < half, other=0.0)[None, :]
    sine = tl.load(sin + position * half + columns, mask=columns < half, other=0.0)[None, :]
    if block < num_q_blocks:
        heads = block * BLOCK_H + tl.arange(0, BLOCK_H)
        _rotate(q + token * q_stride, q_head_stride, heads, num_heads, cosine, sine, half, columns)
    else:
        heads = (block - num_q_blocks) * BLOCK_H + tl.arange(0, BLOCK_H)
        first, second, mask = _rotate(
            k + token * k_stride, k_head_stride, heads, num_kv_heads, cosine, sine, half, columns
        )
        slot = tl.load(slots + token)
        mask = mask & (slot >= 0)
        where = k_cache + slot * cache_stride + heads[:, None] * cache_head_stride
        tl.store(where + columns[None, :], first.to(k_cache.dtype.element_ty), mask=mask)
        tl.store(where + half + columns[None, :], second.to(k_cache.dtype.element_ty), mask=mask)
        dims = tl.arange(0, BLOCK_D)
        kept = (heads < num_kv_heads)[:, None] & (dims < head_dim)[None, :] & (slot >= 0)
        _copy(
            k + token * k_stride, k_cache + slot * cache_stride, heads, k_head_stride,
            cache_head_stride, dims, kept & (dims >= 2 * half)[None, :],
        )  # fmt: skip
        if VALUES:
            _copy(
                v + token * v_stride, v_cache + slot * cache_stride, heads, v_head_stride,
                cache_head_stride, dims, kept,
            )  # fmt: skip

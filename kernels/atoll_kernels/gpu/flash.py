"""Atoll's own attention kernels: ``flash`` for prefill and encoders, ``decode`` for decoding."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from atoll_kernels.attention import AttentionArgs, PagedKV
from atoll_kernels.gpu import launch
from atoll_kernels.gpu.kernels.decode import combine_kernel, decode_kernel
from atoll_kernels.gpu.kernels.flash import flash_kernel
from atoll_kernels.gpu.tiles import Launch

LOG2E = 1.4426950408889634
_MAX_SPLITS = 64
# Combining shares of fewer keys than this costs more than it saves.
_LEAST_SHARE = 256
# Up to this mean length of sequences, or of chunks over the cache, large tiles are mostly empty.
_SHORT_SEQLEN, _SHORT_QLEN = 64, 16


def varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, args: AttentionArgs
) -> Tensor:
    """See ``atoll_kernels.varlen_attention``."""
    return _flash(q, k, v, None, cu_seqlens_q, cu_seqlens_k, args)


def paged_prefill(q: Tensor, kv: PagedKV, cu_seqlens_q: Tensor, args: AttentionArgs) -> Tensor:
    """See ``atoll_kernels.paged_attention``; any number of new tokens per sequence."""
    return _flash(q, kv.keys, kv.values, kv.block_table, cu_seqlens_q, kv.seq_lens, args)


def paged_decode(q: Tensor, kv: PagedKV, cu_seqlens_q: Tensor, args: AttentionArgs) -> Tensor:
    """See ``atoll_kernels.paged_attention``; works for any batch, fast for one token each."""
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, table = kv.keys.shape[2], kv.block_table
    out = torch.empty((num_tokens, num_heads, head_dim), dtype=q.dtype, device=q.device)
    if num_tokens == 0:
        return out
    q, k_cache, v_cache = _dense(q), _dense(kv.keys), _dense(kv.values)
    block_size, block_d = k_cache.shape[1], _block_d(head_dim)
    group = num_heads // num_kv_heads
    block_h = max(16, int(triton.next_power_of_2(group)))
    bucket = _bucket(q.dtype, block_d)
    if block_h > 16 and q.dtype.itemsize == 2 and block_d <= 128:
        bucket += "-grouped"
    config = launch.configuration("decode", bucket)
    splits = num_splits(num_tokens * num_kv_heads, table.shape[1] * block_size)
    rows = num_tokens * num_heads * splits if splits > 1 else 0
    scratch = torch.empty(rows * (block_d + 2), dtype=torch.float32, device=q.device)
    partial, peaks, totals = scratch.split([rows * block_d, rows, rows])
    decode_kernel[(num_tokens, num_kv_heads, splits)](
        out=out, partial=partial, peaks=peaks, totals=totals, q=q, k_cache=k_cache,
        v_cache=v_cache, table=table, cu_seqlens_q=cu_seqlens_q, seq_lens=kv.seq_lens,
        num_seqs=kv.seq_lens.shape[0], num_splits=splits, num_heads=num_heads,
        q_stride=q.stride(0), q_head_stride=q.stride(1),
        k_stride=k_cache.stride(1), k_head_stride=k_cache.stride(2),
        v_stride=v_cache.stride(1), v_head_stride=v_cache.stride(2),
        k_block_stride=k_cache.stride(0), v_block_stride=v_cache.stride(0),
        block_size=block_size, table_stride=table.stride(0), head_dim=head_dim,
        **_scoring(args, q), GROUP=group, IS_SPLIT=splits > 1,
        PRECISION=launch.precision(q.dtype), BLOCK_H=block_h, BLOCK_N=config.block_n,
        BLOCK_D=block_d, num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    if splits > 1:
        combine_kernel[(num_tokens * num_heads,)](
            out=out, partial=partial, peaks=peaks, totals=totals, sinks=_or(args.sinks, q),
            head_dim=head_dim, num_heads=num_heads, num_splits=splits,
            SINKS=args.sinks is not None, BLOCK_S=triton.next_power_of_2(splits),
            BLOCK_D=block_d, num_warps=8 if block_d > 256 else 4,
        )  # fmt: skip
    return out


def num_splits(num_programs: int, capacity: int) -> int:
    """How many programs share a sequence's keys: enough for two on each multiprocessor.

    ``capacity``: the keys that the block table has room for; actual lengths stay on the device.
    """
    wanted = -(-2 * launch.num_processors() // num_programs)
    useful = -(-capacity // _LEAST_SHARE)
    return max(1, min(wanted, useful, _MAX_SPLITS))


def _flash(
    q: Tensor, k: Tensor, v: Tensor, block_table: Tensor | None, cu_seqlens_q: Tensor,
    key_ends: Tensor, args: AttentionArgs,
) -> Tensor:  # fmt: skip
    num_tokens, num_heads, head_dim = q.shape
    num_seqs = cu_seqlens_q.shape[0] - 1
    out = torch.empty((num_tokens, num_heads, head_dim), dtype=q.dtype, device=q.device)
    if num_tokens == 0 or num_seqs == 0:
        return out
    q, k, v = _dense(q), _dense(k), _dense(v)
    block_d, paged = _block_d(head_dim), block_table is not None
    config = _configuration(q, num_seqs, block_d, paged, args)
    num_tiles = num_tokens // config.block_m + num_seqs
    flash_kernel[(num_tiles, num_heads)](
        out=out, q=q, k=k, v=v, table=_or(block_table, cu_seqlens_q), cu_seqlens_q=cu_seqlens_q,
        key_ends=key_ends, num_seqs=num_seqs, num_tiles=num_tiles,
        q_stride=q.stride(0), k_stride=k.stride(-3), v_stride=v.stride(-3),
        q_head_stride=q.stride(1), k_head_stride=k.stride(-2), v_head_stride=v.stride(-2),
        out_stride=out.stride(0), table_stride=0 if block_table is None else block_table.stride(0),
        k_block_stride=k.stride(0) if paged else 0, v_block_stride=v.stride(0) if paged else 0,
        block_size=k.shape[1] if paged else 1, head_dim=head_dim, **_scoring(args, q),
        GROUP=num_heads // k.shape[-2], PAGED=paged, EVEN_D=block_d == head_dim,
        PRECISION=launch.precision(q.dtype), BLOCK_M=config.block_m, BLOCK_N=config.block_n,
        BLOCK_D=block_d, num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return out


def _configuration(
    q: Tensor, num_seqs: int, block_d: int, paged: bool, args: AttentionArgs
) -> Launch:
    """Soft caps, short sequences, short chunks, biases and sinks have rows of their own."""
    num_tokens, bucket, is_half = q.shape[0], _bucket(q.dtype, block_d), q.dtype.itemsize == 2
    # Of gpt-oss, whose heads have 64 features.
    has_sinks = args.sinks is not None and is_half and block_d <= 64
    if args.softcap is not None and is_half and block_d >= 128:
        return launch.configuration("prefill" if paged else "flash", bucket + "-softcap")
    # At 256 features, a window leaves no registers for larger tiles either.
    is_wide_window = args.window is not None and q.dtype.itemsize == 2 and block_d > 128
    if paged:
        if is_half and num_tokens <= _SHORT_QLEN * num_seqs:
            bucket += "-short-qlen"
        elif has_sinks:
            bucket += "-sinks"
        elif is_wide_window:
            bucket += "-softcap"
        return launch.configuration("prefill", bucket)
    biases = (args.window, args.softcap, args.alibi_slopes, args.relative_bias)
    if is_half and block_d <= 128:
        if num_tokens <= _SHORT_SEQLEN * num_seqs:
            bucket += "-short-seqlen"
        elif has_sinks:
            bucket += "-sinks"
        elif any(bias is not None for bias in biases):
            bucket += "-biased"
    elif is_wide_window:
        bucket += "-softcap"
    return launch.configuration("flash", bucket)


def _scoring(args: AttentionArgs, q: Tensor) -> dict[str, Any]:
    """The arguments of both kernels for scale, soft cap, biases, masks and sinks."""
    slopes, relative = args.alibi_slopes, args.relative_bias
    return {
        "scale": args.scale * LOG2E, "window": args.window or 0, "slopes": _or(slopes, q),
        "relative_bias": _or(relative, q), "sinks": _or(args.sinks, q),
        "bias_stride": 0 if relative is None else relative.stride(0),
        "distance": 0 if relative is None else relative.shape[1] // 2,
        "CAUSAL": args.causal, "WINDOW": args.window is not None,
        "SOFTCAP": (args.softcap or 0.0) * LOG2E, "ALIBI": slopes is not None,
        "RELATIVE": relative is not None, "SINKS": args.sinks is not None,
    }  # fmt: skip


def _block_d(head_dim: int) -> int:
    return max(16, int(triton.next_power_of_2(head_dim)))


def _bucket(dtype: torch.dtype, block_d: int) -> str:
    return f"{launch.width(dtype)}-d{max(block_d, 64)}"


def _dense(x: Tensor) -> Tensor:
    """The kernels take any strides of tokens and heads, but need contiguous features."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """``tensor``, or another one in its place, which the kernel will not read."""
    return other if tensor is None else tensor

"""Own attention kernels: many query rows (``flash``) and single ones (``decode``)."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atoll_kernels.gpu import launch
from atoll_kernels.gpu.kernels.decode import combine_kernel, decode_kernel
from atoll_kernels.gpu.kernels.flash import flash_kernel

_LOG2E = 1.4426950408889634
_MAX_SPLITS = 64
# A share of fewer keys than this costs more to combine than it saves.
_LEAST_SHARE = 256
# Up to this mean length, most rows of a large tile would be empty.
_SHORT = 64


def varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    scale: float,
    causal: bool,
    window: int | None,
    alibi_slopes: Tensor | None,
    relative_bias: Tensor | None,
) -> Tensor:
    """See ``atoll_kernels.varlen_attention``."""
    return _flash(q, k, v, None, cu_seqlens_q, cu_seqlens_k, scale, causal, window, alibi_slopes,
                  relative_bias)  # fmt: skip


def paged_prefill(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    cu_seqlens_q: Tensor,
    seq_lens: Tensor,
    *,
    scale: float,
    causal: bool,
    window: int | None,
    alibi_slopes: Tensor | None,
    relative_bias: Tensor | None,
) -> Tensor:
    """See ``atoll_kernels.paged_attention``; any number of new tokens per sequence."""
    return _flash(q, k_cache, v_cache, block_table, cu_seqlens_q, seq_lens, scale, causal, window,
                  alibi_slopes, relative_bias)  # fmt: skip


def paged_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    cu_seqlens_q: Tensor,
    seq_lens: Tensor,
    *,
    scale: float,
    causal: bool,
    window: int | None,
    alibi_slopes: Tensor | None,
    relative_bias: Tensor | None,
) -> Tensor:
    """See ``atoll_kernels.paged_attention``; right for any batch, fast for one token each."""
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads = k_cache.shape[2]
    out = torch.empty((num_tokens, num_heads, head_dim), dtype=q.dtype, device=q.device)
    if num_tokens == 0:
        return out
    q, k_cache, v_cache = _dense(q), _dense(k_cache), _dense(v_cache)
    block_d = _block_d(head_dim)
    group = num_heads // num_kv_heads
    block_h = max(16, int(triton.next_power_of_2(group)))
    bucket = _bucket(q.dtype, block_d)
    if block_h > 16 and q.dtype.itemsize == 2 and block_d <= 128:
        bucket += "-grouped"
    config = launch.configuration("decode", bucket)
    splits = num_splits(num_tokens * num_kv_heads, block_table.shape[1] * k_cache.shape[1])
    rows = num_tokens * num_heads * splits if splits > 1 else 0
    scratch = torch.empty(rows * (block_d + 2), dtype=torch.float32, device=q.device)
    partial, peaks, totals = scratch.split([rows * block_d, rows, rows])
    decode_kernel[(num_tokens, num_kv_heads, splits)](
        out, partial, peaks, totals, q, k_cache, v_cache, block_table, cu_seqlens_q, seq_lens,
        _or(alibi_slopes, q), _or(relative_bias, q), seq_lens.shape[0], splits,
        num_heads, q.stride(0), q.stride(1), k_cache.stride(1), k_cache.stride(2),
        v_cache.stride(1), v_cache.stride(2), k_cache.stride(0), v_cache.stride(0),
        k_cache.shape[1], block_table.stride(0), *_bias_shape(relative_bias), window or 0,
        scale * _LOG2E, head_dim, GROUP=group, IS_SPLIT=splits > 1, CAUSAL=causal,
        WINDOW=window is not None, ALIBI=alibi_slopes is not None,
        RELATIVE=relative_bias is not None, PRECISION=launch.precision(q.dtype), BLOCK_H=block_h,
        BLOCK_N=config.block_n, BLOCK_D=block_d, num_warps=config.num_warps,
        num_stages=config.num_stages,
    )  # fmt: skip
    if splits > 1:
        combine_kernel[(num_tokens * num_heads,)](
            out, partial, peaks, totals, head_dim, splits,
            BLOCK_S=triton.next_power_of_2(splits), BLOCK_D=block_d, num_warps=4,
        )  # fmt: skip
    return out


def num_splits(num_programs: int, capacity: int) -> int:
    """How many programs share a sequence's keys: enough to fill the card twice over.

    ``capacity`` is what the block table can hold, not what it does: lengths stay on the device.
    """
    wanted = -(-2 * launch.num_processors() // num_programs)
    useful = -(-capacity // _LEAST_SHARE)
    return max(1, min(wanted, useful, _MAX_SPLITS))


def _flash(
    q: Tensor, k: Tensor, v: Tensor, block_table: Tensor | None, cu_seqlens_q: Tensor,
    key_ends: Tensor, scale: float, causal: bool, window: int | None, alibi_slopes: Tensor | None,
    relative_bias: Tensor | None,
) -> Tensor:  # fmt: skip
    num_tokens, num_heads, head_dim = q.shape
    num_seqs = cu_seqlens_q.shape[0] - 1
    out = torch.empty((num_tokens, num_heads, head_dim), dtype=q.dtype, device=q.device)
    if num_tokens == 0 or num_seqs == 0:
        return out
    q, k, v = _dense(q), _dense(k), _dense(v)
    block_d = _block_d(head_dim)
    bucket = _bucket(q.dtype, block_d)
    op = "flash" if block_table is None else "prefill"
    if op == "prefill" and q.dtype.itemsize == 2 and num_tokens <= 16 * num_seqs:
        bucket += "-few"
    is_biased = window is not None or alibi_slopes is not None or relative_bias is not None
    if op == "flash" and q.dtype.itemsize == 2 and block_d <= 128:
        if num_tokens <= _SHORT * num_seqs:
            bucket += "-short"
        elif is_biased:
            bucket += "-biased"
    config = launch.configuration(op, bucket)
    num_tiles = num_tokens // config.block_m + num_seqs
    paged = block_table is not None
    flash_kernel[(num_tiles, num_heads)](
        out, q, k, v, _or(block_table, cu_seqlens_q), cu_seqlens_q, key_ends,
        _or(alibi_slopes, q), _or(relative_bias, q), num_seqs, num_tiles,
        q.stride(0), k.stride(-3), v.stride(-3), q.stride(1), k.stride(-2), v.stride(-2),
        out.stride(0), block_table.stride(0) if block_table is not None else 0,
        k.stride(0) if paged else 0, v.stride(0) if paged else 0, k.shape[1] if paged else 1,
        *_bias_shape(relative_bias), window or 0, scale * _LOG2E, head_dim,
        GROUP=num_heads // k.shape[-2], CAUSAL=causal, WINDOW=window is not None,
        ALIBI=alibi_slopes is not None, RELATIVE=relative_bias is not None, PAGED=paged,
        EVEN_D=block_d == head_dim, PRECISION=launch.precision(q.dtype), BLOCK_M=config.block_m,
        BLOCK_N=config.block_n, BLOCK_D=block_d,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return out


def _block_d(head_dim: int) -> int:
    return max(16, int(triton.next_power_of_2(head_dim)))


def _bucket(dtype: torch.dtype, block_d: int) -> str:
    return f"{launch.width(dtype)}-d{min(max(block_d, 64), 256)}"


def _dense(x: Tensor) -> Tensor:
    """The kernels step over heads and tokens by stride, never within a head."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A pointer that is never read."""
    return other if tensor is None else tensor


def _bias_shape(relative_bias: Tensor | None) -> tuple[int, int]:
    if relative_bias is None:
        return 0, 0
    return relative_bias.stride(0), relative_bias.shape[1] // 2

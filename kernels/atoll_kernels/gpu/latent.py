"""Attention over the latent cache of MLA, in prefill and decoding."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atoll_kernels.attention import AttentionArgs, PagedKV
from atoll_kernels.gpu import launch
from atoll_kernels.gpu.flash import LOG2E, num_splits
from atoll_kernels.gpu.kernels.decode import combine_kernel
from atoll_kernels.gpu.kernels.latent import latent_kernel


def is_latent(kv: PagedKV) -> bool:
    """Whether values are the first features of the keys, of a single head."""
    keys, values = kv.keys, kv.values
    is_view = keys.data_ptr() == values.data_ptr() and keys.stride() == values.stride()
    return is_view and keys.shape[2] == 1 and keys.stride(3) == 1


def paged(q: Tensor, kv: PagedKV, cu_seqlens_q: Tensor, args: AttentionArgs) -> Tensor:
    """See ``atoll_kernels.paged_attention``; any number of new tokens per sequence."""
    num_tokens, num_heads, head_dim = q.shape
    cache, table, value_dim = kv.keys, kv.block_table, kv.values.shape[3]
    out = torch.empty((num_tokens, num_heads, value_dim), dtype=q.dtype, device=q.device)
    if num_tokens == 0:
        return out
    q = q if q.stride(-1) == 1 else q.contiguous()
    bucket = launch.width(q.dtype) + ("-grouped" if num_heads > 16 else "")
    config = launch.configuration("latent", bucket)
    block_v, head_blocks = _block(value_dim), triton.cdiv(num_heads, config.block_m)
    splits = num_splits(num_tokens * head_blocks, table.shape[1] * cache.shape[1])
    rows = num_tokens * num_heads * splits if splits > 1 else 0
    scratch = torch.empty(rows * (block_v + 2), dtype=torch.float32, device=q.device)
    partial, peaks, totals = scratch.split([rows * block_v, rows, rows])
    latent_kernel[(num_tokens, head_blocks, splits)](
        out=out, partial=partial, peaks=peaks, totals=totals, q=q, rows_cache=cache, table=table,
        cu_seqlens_q=cu_seqlens_q, seq_lens=kv.seq_lens, num_seqs=kv.seq_lens.shape[0],
        num_splits=splits, num_heads=num_heads, q_stride=q.stride(0), q_head_stride=q.stride(1),
        row_stride=cache.stride(1), block_stride=cache.stride(0), block_size=cache.shape[1],
        table_stride=table.stride(0), scale=args.scale * LOG2E, value_dim=value_dim,
        rest_dim=head_dim - value_dim, IS_SPLIT=splits > 1, CAUSAL=args.causal,
        PRECISION=launch.precision(q.dtype), BLOCK_H=config.block_m, BLOCK_N=config.block_n,
        BLOCK_V=block_v, BLOCK_R=_block(head_dim - value_dim), num_warps=config.num_warps,
        num_stages=config.num_stages,
    )  # fmt: skip
    if splits > 1:
        combine_kernel[(num_tokens * num_heads,)](
            out=out, partial=partial, peaks=peaks, totals=totals, sinks=q, head_dim=value_dim,
            num_heads=num_heads, num_splits=splits, SINKS=False,
            BLOCK_S=triton.next_power_of_2(splits), BLOCK_D=block_v, num_warps=8,
        )  # fmt: skip
    return out


def _block(width: int) -> int:
    return max(16, int(triton.next_power_of_2(width)))

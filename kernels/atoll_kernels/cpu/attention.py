"""Attention by the native kernel: packed sequences and the paged cache share one implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll_kernels.attention import AttentionArgs, PagedKV
from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import address, are_native


def varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, args: AttentionArgs
) -> Tensor | None:
    """See ``atoll_kernels.varlen_attention``."""
    if not _fits(q, k, v, args):
        return None
    k_token, k_head, _ = k.stride()
    v_token, v_head, _ = v.stride()
    strides = (0, k_token, k_head, 0, v_token, v_head, 0, 0)
    return _attend(q, k, v, cu_seqlens_q, cu_seqlens_k, None, strides, args)


def paged_attention(
    q: Tensor, kv: PagedKV, cu_seqlens_q: Tensor, args: AttentionArgs
) -> Tensor | None:
    """See ``atoll_kernels.paged_attention``."""
    k, v, table, seq_lens = kv
    if not _fits(q, k, v, args):
        return None
    strides = (*k.stride()[:3], *v.stride()[:3], table.stride(0), k.shape[1])
    return _attend(q, k, v, cu_seqlens_q, seq_lens, table, strides, args)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, key_ends: Tensor, table: Tensor | None,
    strides: tuple[int, ...], args: AttentionArgs,
) -> Tensor | None:  # fmt: skip
    """strides: of k and v by block, token and head; of the table; and the block size."""
    native = library()
    if native is None:
        return None
    slopes, relative = _floats(args.alibi_slopes), _floats(args.relative_bias)
    out = empty(q.shape, q.dtype)
    _, num_heads, head_dim = q.shape
    q_token, q_head, _ = q.stride()
    native.attention(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), cu_seqlens_q.data_ptr(),
        key_ends.data_ptr(), address(table), address(slopes), address(relative),
        q_token, q_head, *strides,
        len(cu_seqlens_q) - 1, num_heads, k.shape[-2], head_dim, args.causal, args.window or 0,
        0 if relative is None else relative.shape[1] // 2, torch.get_num_threads(),
        q.dtype == torch.bfloat16, args.scale,
    )  # fmt: skip
    return out


def _fits(q: Tensor, k: Tensor, v: Tensor, args: AttentionArgs) -> bool:
    """bfloat16 is read in pairs, which an odd head size would break."""
    head_dim = q.shape[2]
    if args.softcap is not None or v.shape[-1] != head_dim or head_dim % 2:
        return False
    return are_native(q, k, v)


def _floats(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()

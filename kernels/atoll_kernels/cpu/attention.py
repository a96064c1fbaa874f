"""Attention by the native kernel, which takes packed sequences and the paged cache."""

from __future__ import annotations

from torch import Tensor

from atoll_kernels.attention import AttentionArgs, PagedKV
from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import address, are_native
from atoll_kernels.disentangled import DistanceTables


def varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, args: AttentionArgs
) -> Tensor | None:
    """See ``atoll_kernels.varlen_attention``."""
    if not _fits(q, k, v):
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
    if not _fits(q, k, v):
        return None
    strides = (*k.stride()[:3], *v.stride()[:3], table.stride(0), k.shape[1])
    return _attend(q, k, v, cu_seqlens_q, seq_lens, table, strides, args)


def disentangled_attention(
    q: Tensor, k: Tensor, v: Tensor, tables: DistanceTables, cu_seqlens: Tensor, scale: float
) -> Tensor | None:
    """See ``atoll_kernels.disentangled_attention``."""
    given = [table for table in tables[:2] if table is not None]
    is_dense = all(table.is_contiguous() for table in given)
    if not _fits(q, k, v) or not are_native(q, *given) or not is_dense:
        return None
    k_token, k_head, _ = k.stride()
    v_token, v_head, _ = v.stride()
    strides = (0, k_token, k_head, 0, v_token, v_head, 0, 0)
    args = AttentionArgs(scale, causal=False)
    return _attend(q, k, v, cu_seqlens, cu_seqlens, None, strides, args, tables)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, key_ends: Tensor, table: Tensor | None,
    strides: tuple[int, ...], args: AttentionArgs, tables: DistanceTables | None = None,
) -> Tensor | None:  # fmt: skip
    """strides: of k and v (block, token, head), of the table's rows; then the block size."""
    native = library()
    if native is None:
        return None
    slopes, relative, sinks = map(_floats, (args.alibi_slopes, args.relative_bias, args.sinks))
    num_tokens, num_heads, head_dim = q.shape
    out = empty((num_tokens, num_heads, v.shape[-1]), q.dtype)
    keys, queries, rows = (None, None, None) if tables is None else tables
    spread = 0 if relative is None else relative.shape[1] // 2
    q_token, q_head, _ = q.stride()
    native.attention(
        q.dtype, q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(),
        cu_seqlens_q.data_ptr(), key_ends.data_ptr(), address(table), address(slopes),
        address(relative), address(sinks), address(keys), address(queries), address(rows),
        q_token, q_head, *strides, len(cu_seqlens_q) - 1, num_heads, k.shape[-2], head_dim,
        v.shape[-1], args.causal,
        args.window or 0, spread if rows is None else len(rows) // 2, args.scale,
        args.softcap or 0.0,
    )  # fmt: skip
    return out


def _fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """bfloat16 is read in pairs, so keys and values must have an even number of features."""
    head_dim, value_dim = q.shape[2], v.shape[-1]
    is_even = head_dim % 2 == 0 and value_dim % 2 == 0
    return is_even and value_dim <= head_dim and are_native(q, k, v)


def _floats(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()

"""Disentangled attention by Atoll's own kernel."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atoll_kernels.disentangled import DistanceTables
from atoll_kernels.gpu import launch
from atoll_kernels.gpu.flash import LOG2E
from atoll_kernels.gpu.kernels.disentangled import disentangled_kernel

_MAX_HEAD_DIM = 128
# Products of words with a table at most, by elements: 256 MB in half precision.
_MAX_PRODUCTS = 1 << 27


def disentangled_attention(
    q: Tensor, k: Tensor, v: Tensor, tables: DistanceTables, cu_seqlens: Tensor, scale: float
) -> Tensor | None:
    """See ``atoll_kernels.disentangled_attention``."""
    num_tokens, num_heads, head_dim = q.shape
    if head_dim > _MAX_HEAD_DIM:
        return None
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if num_tokens == 0 or cu_seqlens.shape[0] == 1:
        return out
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    given = [table for table in tables[:2] if table is not None]
    num_rows = given[0].shape[0] if given else 1
    at_once = max(1, _MAX_PRODUCTS // (num_tokens * num_rows))
    for first in range(0, num_heads, at_once):
        heads = slice(first, first + at_once)
        by_query = _products(q[:, heads], tables.keys, heads)
        by_key = _products(k[:, heads], tables.queries, heads)
        parts = (out[:, heads], q[:, heads], k[:, heads], v[:, heads], by_query, by_key)
        _launch(*parts, tables.rows, cu_seqlens, scale)
    return out


def _products(words: Tensor, table: Tensor | None, heads: slice) -> Tensor | None:
    """(heads, tokens, rows): some heads of words times each row of a table."""
    if table is None:
        return None
    return torch.bmm(words.transpose(0, 1), table[:, heads].permute(1, 2, 0))


def _launch(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, by_query: Tensor | None, by_key: Tensor | None,
    row_of: Tensor, cu_seqlens: Tensor, scale: float,
) -> None:  # fmt: skip
    num_tokens, num_heads, head_dim = q.shape
    num_seqs = cu_seqlens.shape[0] - 1
    block_d = max(16, int(triton.next_power_of_2(head_dim)))
    bucket = f"{launch.width(q.dtype)}-d{max(block_d, 64)}"
    config = launch.configuration("disentangled", bucket)
    products = next((x for x in (by_query, by_key) if x is not None), q)
    disentangled_kernel[(num_tokens // config.block_m + num_seqs, num_heads)](
        out=out, q=q, k=k, v=v, by_query=q if by_query is None else by_query,
        by_key=q if by_key is None else by_key, row_of=row_of, cu_seqlens=cu_seqlens,
        num_seqs=num_seqs, q_stride=q.stride(0), k_stride=k.stride(0), v_stride=v.stride(0),
        q_head_stride=q.stride(1), k_head_stride=k.stride(1), v_head_stride=v.stride(1),
        out_stride=out.stride(0), product_stride=products.stride(1),
        product_head_stride=products.stride(0), reach=row_of.shape[0] // 2, scale=scale * LOG2E,
        head_dim=head_dim, HAS_KEYS=by_query is not None, HAS_QUERIES=by_key is not None,
        EVEN_D=block_d == head_dim, PRECISION=launch.precision(q.dtype), BLOCK_M=config.block_m,
        BLOCK_N=config.block_n, BLOCK_D=block_d, num_warps=config.num_warps,
        num_stages=config.num_stages,
    )  # fmt: skip

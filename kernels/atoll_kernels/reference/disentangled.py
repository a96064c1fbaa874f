"""Disentangled attention in plain torch, one sequence at a time."""

import torch
from torch import Tensor

from atoll_kernels.disentangled import DistanceTables


def disentangled_attention(
    q: Tensor, k: Tensor, v: Tensor, tables: DistanceTables, cu_seqlens: Tensor, scale: float
) -> Tensor:
    out = torch.empty(v.shape, dtype=q.dtype, device=q.device)
    bounds = cu_seqlens.tolist()
    for first, end in zip(bounds, bounds[1:], strict=False):
        rows = slice(first, end)
        out[rows] = _attend(q[rows], k[rows], v[rows], tables, scale)
    return out


def _attend(q: Tensor, k: Tensor, v: Tensor, tables: DistanceTables, scale: float) -> Tensor:
    """One sequence: (tokens, num_heads, head_dim)."""
    q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
    positions, reach = torch.arange(q.shape[1], device=q.device), len(tables.rows) // 2
    offset = (positions - positions.unsqueeze(1)).clamp(-reach, reach)
    rows = tables.rows[offset + reach].long().expand(len(q), -1, -1)
    scores = q @ k.transpose(1, 2)
    if tables.keys is not None:
        scores = scores + (q @ tables.keys.permute(1, 2, 0)).gather(2, rows)
    if tables.queries is not None:
        by_key = (k @ tables.queries.permute(1, 2, 0)).gather(2, rows.transpose(1, 2))
        scores = scores + by_key.transpose(1, 2)
    wide = torch.promote_types(q.dtype, torch.float32)
    weights = (scores.to(wide) * scale).softmax(-1).to(v.dtype)
    return (weights @ v).transpose(0, 1)

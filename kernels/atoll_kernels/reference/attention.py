"""Attention in plain torch: one SDPA call per sequence, the mask built only where one is needed."""

import torch
import torch.nn.functional as F
from torch import Tensor


def varlen_attention(
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
    out = q.new_zeros(q.shape)
    starts_q, starts_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for i in range(len(starts_q) - 1):
        rows = slice(starts_q[i], starts_q[i + 1])
        keys = slice(starts_k[i], starts_k[i + 1])
        if rows.start == rows.stop or keys.start == keys.stop:
            continue
        out[rows] = _attend(q[rows], k[keys], v[keys], scale, causal, window, alibi_slopes,
                            relative_bias)  # fmt: skip
    return out


def paged_attention(
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
    out = q.new_zeros(q.shape)
    block_size = k_cache.shape[1]
    starts, lengths = cu_seqlens_q.tolist(), seq_lens.tolist()
    for i, length in enumerate(lengths):
        rows = slice(starts[i], starts[i + 1])
        if rows.start == rows.stop or length == 0:
            continue
        # Blocks behind the window may have been freed (-1): they are masked, so any block will do.
        blocks = block_table[i, : -(-length // block_size)].long().clamp_min(0)
        k = k_cache[blocks].flatten(0, 1)[:length]
        v = v_cache[blocks].flatten(0, 1)[:length]
        out[rows] = _attend(q[rows], k, v, scale, causal, window, alibi_slopes, relative_bias)
    return out


def write_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> bool:
    kept = slot_mapping >= 0
    slots = slot_mapping[kept]
    k_cache.view(-1, *k_cache.shape[2:])[slots] = k[kept].to(k_cache.dtype)
    v_cache.view(-1, *v_cache.shape[2:])[slots] = v[kept].to(v_cache.dtype)
    return True


def _attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, window: int | None,
    alibi_slopes: Tensor | None, relative_bias: Tensor | None,
) -> Tensor:  # fmt: skip
    """One sequence. q: (queries, num_heads, head_dim), the last positions of the keys."""
    mask = _bias(q, k.shape[0], causal, window, alibi_slopes, relative_bias)
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1).unsqueeze(0), k.transpose(0, 1).unsqueeze(0),
        v.transpose(0, 1).unsqueeze(0), attn_mask=mask, scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    return out[0].transpose(0, 1)


def _bias(
    q: Tensor, num_keys: int, causal: bool, window: int | None, alibi_slopes: Tensor | None,
    relative_bias: Tensor | None,
) -> Tensor | None:  # fmt: skip
    """Additive mask (num_heads or 1, queries, keys), dtype of q; None if nothing is masked."""
    num_queries = q.shape[0]
    if num_queries == 1 and window is None and alibi_slopes is None and relative_bias is None:
        return None
    if not causal and window is None and alibi_slopes is None and relative_bias is None:
        return None
    positions = torch.arange(num_keys - num_queries, num_keys, device=q.device).unsqueeze(1)
    offset = torch.arange(num_keys, device=q.device).unsqueeze(0) - positions
    bias = torch.zeros(1, num_queries, num_keys, dtype=torch.float32, device=q.device)
    if alibi_slopes is not None:
        bias = bias - alibi_slopes.float().view(-1, 1, 1) * offset.abs()
    if relative_bias is not None:
        distance = relative_bias.shape[1] // 2
        bias = bias + relative_bias.float()[:, offset.clamp(-distance, distance) + distance]
    if causal:
        bias = bias.masked_fill(offset > 0, float("-inf"))
    if window is not None:
        bias = bias.masked_fill(offset.abs() >= window, float("-inf"))
    return bias.to(q.dtype)

"""Attention in plain torch, one sequence at a time: SDPA, with a mask only if one is needed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll_kernels.attention import AttentionArgs, PagedKV


def varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, args: AttentionArgs
) -> Tensor:
    out = q.new_zeros(*q.shape[:2], v.shape[2])
    starts_q, starts_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for i in range(len(starts_q) - 1):
        rows = slice(starts_q[i], starts_q[i + 1])
        keys = slice(starts_k[i], starts_k[i + 1])
        if rows.start == rows.stop or keys.start == keys.stop:
            continue
        out[rows] = _attend(q[rows], k[keys], v[keys], args)
    return out


def paged_attention(q: Tensor, kv: PagedKV, cu_seqlens_q: Tensor, args: AttentionArgs) -> Tensor:
    out = q.new_zeros(*q.shape[:2], kv.values.shape[3])
    block_size = kv.keys.shape[1]
    starts, lengths = cu_seqlens_q.tolist(), kv.seq_lens.tolist()
    for i, length in enumerate(lengths):
        rows = slice(starts[i], starts[i + 1])
        if rows.start == rows.stop or length == 0:
            continue
        # Blocks behind the window may have been freed (-1); they are masked, so any block will do.
        blocks = kv.block_table[i, : -(-length // block_size)].long().clamp_min(0)
        k = kv.keys[blocks].flatten(0, 1)[:length]
        v = kv.values[blocks].flatten(0, 1)[:length]
        out[rows] = _attend(q[rows], k, v, args)
    return out


def write_kv(
    k: Tensor, v: Tensor | None, k_cache: Tensor, v_cache: Tensor | None, slot_mapping: Tensor
) -> bool:
    kept = slot_mapping >= 0
    slots = slot_mapping[kept]
    k_cache.view(-1, *k_cache.shape[2:])[slots] = k[kept].to(k_cache.dtype)
    if v is not None and v_cache is not None:
        v_cache.view(-1, *v_cache.shape[2:])[slots] = v[kept].to(v_cache.dtype)
    return True


def _attend(q: Tensor, k: Tensor, v: Tensor, args: AttentionArgs) -> Tensor:
    """One sequence. q: (queries, num_heads, head_dim), at the last positions."""
    is_grouped, is_triangle = q.shape[1] != k.shape[1], _is_triangle(q.shape[0], k.shape[0], args)
    bias = None if is_triangle else _bias(q, k.shape[0], args)
    q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
    if args.softcap is not None or args.sinks is not None:
        return _spelled_out(q, k, v, bias, args).transpose(0, 1)
    out = F.scaled_dot_product_attention(
        q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), attn_mask=bias, is_causal=is_triangle,
        scale=args.scale, enable_gqa=is_grouped,
    )  # fmt: skip
    return out[0].transpose(0, 1)


def _spelled_out(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, args: AttentionArgs
) -> Tensor:
    """With a soft cap or sinks, which SDPA does not support; (num_heads, queries, value_dim)."""
    group = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    scores = (q @ k.transpose(1, 2)).to(torch.promote_types(q.dtype, torch.float32)) * args.scale
    if args.softcap is not None:
        scores = args.softcap * (scores / args.softcap).tanh()
    scores = scores if bias is None else scores + bias
    if args.sinks is not None:
        sinks = args.sinks.to(scores.dtype).view(-1, 1, 1).expand(-1, scores.shape[1], 1)
        scores = torch.cat((scores, sinks), -1)
    weights = scores.softmax(-1)[..., : k.shape[1]]
    # A row without a visible key is 0.
    return weights.nan_to_num(0).to(v.dtype) @ v


def _is_triangle(num_queries: int, num_keys: int, args: AttentionArgs) -> bool:
    """Whether SDPA masks a whole text by itself, without a mask of (queries, keys) in memory."""
    more = (args.window, args.softcap, args.alibi_slopes, args.relative_bias, args.sinks)
    return args.causal and num_queries == num_keys and all(one is None for one in more)


def _bias(q: Tensor, num_keys: int, args: AttentionArgs) -> Tensor | None:
    """Additive mask (num_heads or 1, queries, keys), dtype of q; None if nothing is masked."""
    num_queries, slopes, relative = q.shape[0], args.alibi_slopes, args.relative_bias
    is_plain = args.window is None and slopes is None and relative is None
    if is_plain and (num_queries == 1 or not args.causal):
        return None
    positions = torch.arange(num_keys - num_queries, num_keys, device=q.device).unsqueeze(1)
    offset = torch.arange(num_keys, device=q.device).unsqueeze(0) - positions
    bias = torch.zeros(1, num_queries, num_keys, dtype=torch.float32, device=q.device)
    if slopes is not None:
        bias = bias - slopes.float().view(-1, 1, 1) * offset.abs()
    if relative is not None:
        distance = relative.shape[1] // 2
        bias = bias + relative.float()[:, offset.clamp(-distance, distance) + distance]
    if args.causal:
        bias = bias.masked_fill(offset > 0, float("-inf"))
    if args.window is not None:
        bias = bias.masked_fill(offset.abs() >= args.window, float("-inf"))
    return bias.to(q.dtype)

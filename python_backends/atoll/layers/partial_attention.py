"""Attention of sequences whose last tokens are not attended to, but attend to all the others.

ColBERT fills its queries up with [MASK] tokens of this kind (Khattab and Zaharia 2020). With n
attended tokens of L:

    keys      0 ........ n          (the text)
    queries   0 ........ n ..... L  (the text, then the filling)

Packed sequences without positions in their scores take one call, with fewer keys than queries.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

import atoll_kernels as kernels
from atoll.layers.batch import Attended


def attend_to_some(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, some: Attended, args: kernels.AttentionArgs
) -> Tensor:
    """q, k, v: (tokens, heads, head_dim), rotated; (tokens, num_heads, head_dim).

    A window must be as wide as every sequence with tokens that are not attended.
    """
    k, v = k.index_select(0, some.tokens), v.index_select(0, some.tokens)
    is_plain = args.alibi_slopes is None and args.relative_bias is None
    if is_plain and args.window is None and not args.causal:
        return kernels.varlen_attention(q, k, v, cu_seqlens, some.cu_seqlens, args)
    out = torch.empty_like(q[..., : v.shape[-1]])
    text = q.index_select(0, some.tokens)
    found = kernels.varlen_attention(text, k, v, some.cu_seqlens, some.cu_seqlens, args)
    out.index_copy_(0, some.tokens, found)
    start = first_key = 0
    for count, length in zip(some.counts, some.lengths, strict=True):
        rest, keys = slice(start + count, start + length), slice(first_key, first_key + count)
        start, first_key = start + length, first_key + count
        if count < length:
            ends_q, ends_k = (
                torch.tensor([0, n], dtype=torch.int32, device=q.device)
                for n in (length - count, count)
            )
            moved = _moved(args, length, length - count)
            out[rest] = kernels.varlen_attention(q[rest], k[keys], v[keys], ends_q, ends_k, moved)
    return out


def _moved(args: kernels.AttentionArgs, length: int, num_unseen: int) -> kernels.AttentionArgs:
    """For the last ``num_unseen`` queries, which the kernels take for the last of the keys.

    That is ``num_unseen`` positions too early, so they are given a table of biases moved by as
    many. All keys are before them, and within the window.
    """
    offset = torch.arange(-length, length + 1) - num_unseen
    table: Tensor | None = None
    if args.relative_bias is not None:
        distance = args.relative_bias.shape[1] // 2
        at = (offset.clamp(-distance, distance) + distance).to(args.relative_bias.device)
        table = args.relative_bias[:, at]
    if args.alibi_slopes is not None:
        slopes = args.alibi_slopes.float()
        linear = -slopes[:, None] * offset.abs().to(slopes.device)
        table = linear if table is None else table + linear
    return replace(args, causal=False, window=None, alibi_slopes=None, relative_bias=table)

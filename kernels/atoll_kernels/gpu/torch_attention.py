"""Attention kernels of torch and flash-attn, with the signature of our own.

Unlike ours, they need the maximum lengths on the host, which synchronizes once per call. Keys in a
paged cache are gathered first.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from atoll_kernels.attention import AttentionArgs, PagedKV

_FULL, _CAUSAL = 0, 2
# Elements of a bias at most: 256 MB in half precision.
_MAX_BIAS = 1 << 27


def torch_flash(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, args: AttentionArgs
) -> Tensor:
    """See ``atoll_kernels.varlen_attention``; torch's build of flash-attention 2."""
    left, right = _sides(args)
    out: Tensor = torch.ops.aten._flash_attention_forward(
        q, k, v, cu_seqlens_q, cu_seqlens_k, _longest(cu_seqlens_q), _longest(cu_seqlens_k), 0.0,
        args.causal, False, scale=args.scale, window_size_left=left, window_size_right=right,
        alibi_slopes=_float(args.alibi_slopes),
    )[0]  # fmt: skip
    return out


def flash_attn(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, args: AttentionArgs
) -> Tensor:
    """See ``atoll_kernels.varlen_attention``; the flash-attn package."""
    from flash_attn import flash_attn_varlen_func

    out: Tensor = flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, _longest(cu_seqlens_q), _longest(cu_seqlens_k),
        softmax_scale=args.scale, causal=args.causal, window_size=_sides(args),
        alibi_slopes=_float(args.alibi_slopes),
    )  # fmt: skip
    return out


def torch_efficient(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, args: AttentionArgs
) -> Tensor:
    """See ``atoll_kernels.varlen_attention``; CUTLASS kernels, from compute capability 7.5 on.

    They support packed sequences or a bias, not both, so with a bias sequences are padded.
    """
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    biases = (args.window, args.alibi_slopes, args.relative_bias)
    if any(bias is not None for bias in biases):
        return _padded(q, k, v, cu_seqlens_q, cu_seqlens_k, args)
    out: Tensor = torch.ops.aten._efficient_attention_forward(
        q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), None, cu_seqlens_q, cu_seqlens_k,
        _longest(cu_seqlens_q), _longest(cu_seqlens_k), 0.0, _CAUSAL if args.causal else _FULL,
        False, scale=args.scale,
    )[0]  # fmt: skip
    return out.squeeze(0)


def gather_keys(kv: PagedKV) -> tuple[Tensor, Tensor, Tensor]:
    """The cached keys and values of all sequences, concatenated, and their cu_seqlens."""
    seq_lens, block_size = kv.seq_lens, kv.keys.shape[1]
    cu_seqlens = torch.nn.functional.pad(seq_lens.cumsum(0), (1, 0)).int()
    total = int(cu_seqlens[-1])
    owners = torch.repeat_interleave(seq_lens.long(), output_size=total)
    places = torch.arange(total, device=seq_lens.device) - cu_seqlens[owners]
    # A freed block (-1) is behind the window and masked, so any block will do.
    blocks = kv.block_table[owners, places // block_size].long().clamp_min(0)
    rows = blocks * block_size + places % block_size
    return kv.keys.flatten(0, 1)[rows], kv.values.flatten(0, 1)[rows], cu_seqlens


def _padded(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, args: AttentionArgs
) -> Tensor:
    """SDPA with a bias, for as many sequences at once as ``_MAX_BIAS`` allows."""
    out = q.new_zeros(q.shape)
    width_q, width_k = _longest(cu_seqlens_q), _longest(cu_seqlens_k)
    if not width_q or not width_k:
        return out
    at_once = max(1, _MAX_BIAS // (q.shape[1] * width_q * width_k))
    for first in range(0, cu_seqlens_q.shape[0] - 1, at_once):
        ends_q, ends_k = (
            ends[first : first + at_once + 1] for ends in (cu_seqlens_q, cu_seqlens_k)
        )
        rows, is_query = _places(ends_q, width_q)
        keys, is_key = _places(ends_k, width_k)
        shift = (is_key.sum(1) - is_query.sum(1))[:, None, None]
        offset = torch.arange(width_k, device=q.device) - shift
        offset = offset - torch.arange(width_q, device=q.device)[:, None]
        hidden = ~is_key[:, None]
        if args.causal:
            hidden = hidden | (offset > 0)
        if args.window is not None:
            hidden = hidden | (offset.abs() >= args.window)
        bias = _bias(offset, hidden, args)
        found = scaled_dot_product_attention(
            q[rows].transpose(1, 2), k[keys].transpose(1, 2), v[keys].transpose(1, 2),
            attn_mask=bias.to(q.dtype), scale=args.scale,
        )  # fmt: skip
        # A row without a visible key is 0.
        seen = is_query & ~hidden.expand(-1, width_q, -1).all(-1)
        out[rows[seen]] = found.transpose(1, 2)[seen]
    return out


def _places(cu_seqlens: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Indices of tokens, (num_seqs, width), padded with 0, and which of them are tokens."""
    columns = torch.arange(width, device=cu_seqlens.device)
    held = columns < cu_seqlens.diff()[:, None]
    return torch.where(held, cu_seqlens[:-1, None] + columns, 0).long(), held


def _bias(offset: Tensor, hidden: Tensor, args: AttentionArgs) -> Tensor:
    """(num_seqs, 1 or num_heads, queries, keys) float32; offset: key minus query position."""
    bias = torch.zeros(1, device=offset.device)
    if args.alibi_slopes is not None:
        bias = bias - args.alibi_slopes.float().view(1, -1, 1, 1) * offset.abs().unsqueeze(1)
    if args.relative_bias is not None:
        distance = args.relative_bias.shape[1] // 2
        index = offset.clamp(-distance, distance) + distance
        bias = bias + args.relative_bias.float()[:, index].transpose(0, 1)
    return torch.where(hidden.unsqueeze(1), float("-inf"), bias)


def _longest(cu_seqlens: Tensor) -> int:
    return int(cu_seqlens.diff().max())


def _sides(args: AttentionArgs) -> tuple[int, int]:
    """flash-attention counts neighbors: a window of w is w - 1 to each side."""
    left = -1 if args.window is None else args.window - 1
    return left, 0 if args.causal else left


def _float(slopes: Tensor | None) -> Tensor | None:
    return None if slopes is None else slopes.float()

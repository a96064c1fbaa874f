"""Attention kernels that come with torch or flash-attn, behind the signature of our own.

They want the longest lengths on the host, which waits for the device once per call; our own
kernels do not. The paged cache is gathered into packed keys first.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FULL, _CAUSAL = 0, 2


def torch_flash(
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
    """See ``atoll_kernels.varlen_attention``; flash-attention 2 as torch builds it."""
    left, right = _sides(window, causal)
    out: Tensor = torch.ops.aten._flash_attention_forward(
        q, k, v, cu_seqlens_q, cu_seqlens_k, _longest(cu_seqlens_q), _longest(cu_seqlens_k), 0.0,
        causal, False, scale=scale, window_size_left=left, window_size_right=right,
        alibi_slopes=_float(alibi_slopes),
    )[0]  # fmt: skip
    return out


def flash_attn(
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
    """See ``atoll_kernels.varlen_attention``; the flash-attn package."""
    from flash_attn import flash_attn_varlen_func

    out: Tensor = flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, _longest(cu_seqlens_q), _longest(cu_seqlens_k),
        softmax_scale=scale, causal=causal, window_size=_sides(window, causal),
        alibi_slopes=_float(alibi_slopes),
    )  # fmt: skip
    return out


def torch_efficient(
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
    """See ``atoll_kernels.varlen_attention``; CUTLASS kernels, from compute capability 7.5 on."""
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    longest_q, longest_k = _longest(cu_seqlens_q), _longest(cu_seqlens_k)
    bias = None
    if window is not None or alibi_slopes is not None or relative_bias is not None:
        bias = _bias(q, cu_seqlens_q, cu_seqlens_k, longest_q, longest_k, causal, window,
                     alibi_slopes, relative_bias)  # fmt: skip
    out: Tensor = torch.ops.aten._efficient_attention_forward(
        q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), bias, cu_seqlens_q, cu_seqlens_k,
        longest_q, longest_k, 0.0, _CAUSAL if causal and bias is None else _FULL, False,
        scale=scale,
    )[0]  # fmt: skip
    return out.squeeze(0)


def gather_keys(
    k_cache: Tensor, v_cache: Tensor, block_table: Tensor, seq_lens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The cached keys and values of all sequences, packed, and their cu_seqlens."""
    block_size = k_cache.shape[1]
    cu_seqlens = torch.nn.functional.pad(seq_lens.cumsum(0), (1, 0)).int()
    total = int(cu_seqlens[-1])
    owners = torch.repeat_interleave(seq_lens.long(), output_size=total)
    places = torch.arange(total, device=seq_lens.device) - cu_seqlens[owners]
    # A freed block (-1) lies behind the window: masked, so any block will do.
    blocks = block_table[owners, places // block_size].long().clamp_min(0)
    rows = blocks * block_size + places % block_size
    return k_cache.flatten(0, 1)[rows], v_cache.flatten(0, 1)[rows], cu_seqlens


def _bias(
    q: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, longest_q: int, longest_k: int,
    causal: bool, window: int | None, alibi_slopes: Tensor | None, relative_bias: Tensor | None,
) -> Tensor:  # fmt: skip
    """(num_seqs, num_heads, longest_q, longest_k), dtype of q, rows aligned to 16 bytes.

    Where queries are the whole sequences, positions are the same in each: one bias is shared.
    """
    num_seqs, num_heads = cu_seqlens_q.shape[0] - 1, q.shape[1]
    shift = torch.zeros(1, dtype=torch.int64, device=q.device)
    if cu_seqlens_q is not cu_seqlens_k:
        shift = (cu_seqlens_k.diff() - cu_seqlens_q.diff()).long()
    width = -(-longest_k // 8) * 8
    positions = torch.arange(longest_q, device=q.device)[None, :, None] + shift[:, None, None]
    offset = torch.arange(width, device=q.device)[None, None, :] - positions
    bias = torch.zeros(len(shift), num_heads, longest_q, width, device=q.device)
    if alibi_slopes is not None:
        bias -= alibi_slopes.float().view(1, -1, 1, 1) * offset.abs().unsqueeze(1)
    if relative_bias is not None:
        distance = relative_bias.shape[1] // 2
        index = offset.clamp(-distance, distance) + distance
        bias += relative_bias.float()[:, index].transpose(0, 1)
    hidden = offset > 0 if causal else torch.zeros_like(offset, dtype=torch.bool)
    if window is not None:
        hidden = hidden | (offset.abs() >= window)
    bias.masked_fill_(hidden.unsqueeze(1), float("-inf"))
    return bias.to(q.dtype)[..., :longest_k].expand(num_seqs, -1, -1, -1)


def _longest(cu_seqlens: Tensor) -> int:
    return int(cu_seqlens.diff().max())


def _sides(window: int | None, causal: bool) -> tuple[int, int]:
    """flash-attention counts neighbours: a window of w is w - 1 to each side."""
    left = -1 if window is None else window - 1
    return left, 0 if causal else left


def _float(slopes: Tensor | None) -> Tensor | None:
    return None if slopes is None else slopes.float()

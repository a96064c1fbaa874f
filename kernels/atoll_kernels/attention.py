"""Attention over packed sequences, and over a paged KV cache."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from atoll_kernels import dispatch


@dataclass(frozen=True)
class AttentionArgs:
    """How scores are scaled, capped, biased and masked, for a query at position p and a key at j.

    scale: multiplies q @ k^T. softcap: then ``softcap * tanh(score / softcap)`` (Gemma 2).
    alibi_slopes (num_heads,): adds ``-slope * abs(p - j)`` (Press et al. 2022; JinaBERT's symmetric
    form). relative_bias (num_heads, 2 * distance + 1): adds ``relative_bias[h, clamp(j - p,
    -distance, distance) + distance]`` (T5's buckets saturate, so a table of this size is exact).
    causal: j <= p. window: abs(p - j) < window. sinks (num_heads,) float32: one more logit per head
    in the softmax, neither scaled nor capped, whose column is dropped (gpt-oss).
    """

    scale: float
    causal: bool
    window: int | None = None
    softcap: float | None = None
    alibi_slopes: Tensor | None = None
    relative_bias: Tensor | None = None
    sinks: Tensor | None = None


class PagedKV(NamedTuple):
    """The keys and values of some sequences in a paged cache.

    keys: (num_blocks, block_size, num_kv_heads, head_dim).
    values: (num_blocks, block_size, num_kv_heads, value_dim); may be a view of the keys' first
        features (the latent cache of MLA).
    block_table: (num_seqs, max_blocks) int32; entry b is the block of positions from b*block_size.
        Entries without a visible position may be -1.
    seq_lens: (num_seqs,) int32, keys in the cache. 0 is allowed: a padded row, whose output is 0.
    """

    keys: Tensor
    values: Tensor
    block_table: Tensor
    seq_lens: Tensor


def varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, args: AttentionArgs
) -> Tensor:
    """Attention over concatenated sequences, without padding.

    Args:
        q: (tokens_q, num_heads, head_dim); rows may be strided (a slice of a fused projection).
        k: (tokens_k, num_kv_heads, head_dim); num_heads is a multiple of num_kv_heads.
        v: (tokens_k, num_kv_heads, value_dim), value_dim <= head_dim.
        cu_seqlens_q, cu_seqlens_k: (num_seqs + 1,) int32, on the device of q. If a sequence has
            fewer queries than keys, the queries are its last positions. More queries than keys are
            for scores without positions alone: every query sees every key.

    Returns:
        (tokens_q, num_heads, value_dim), contiguous, dtype of q. Rows without a visible key are 0.
    """
    result: Tensor = dispatch.run("varlen_attention", q, k, v, cu_seqlens_q, cu_seqlens_k, args)
    return result


def paged_attention(q: Tensor, kv: PagedKV, cu_seqlens_q: Tensor, args: AttentionArgs) -> Tensor:
    """Attention of new tokens (one when decoding, a chunk in prefill) over the KV cache.

    Args:
        q: (tokens, num_heads, head_dim), the new tokens of all sequences, concatenated. They are
            the last positions of their sequences.
        kv: already contains the new tokens.
        cu_seqlens_q: (num_seqs + 1,) int32.

    Returns:
        (tokens, num_heads, value_dim), contiguous, dtype of q.
    """
    result: Tensor = dispatch.run("paged_attention", q, kv, cu_seqlens_q, args)
    return result


def write_kv(
    k: Tensor, v: Tensor | None, k_cache: Tensor, v_cache: Tensor | None, slot_mapping: Tensor
) -> None:
    """Writes keys and values of new tokens to the cache; mutates ``k_cache`` and ``v_cache``.

    Args:
        k, v: (tokens, num_kv_heads, head_dim). Without v and v_cache, values are a part of the keys
            (the latent rows of MLA), and only keys are written.
        slot_mapping: (tokens,) int64, block * block_size + offset; -1 skips the token.
    """
    dispatch.run("write_kv", k, v, k_cache, v_cache, slot_mapping)


def alibi_slopes(num_heads: int, bias_max: float = 8.0) -> Tensor:
    """Slopes of Press et al. (2022) for any head count; (num_heads,) float32.

    For k = 2^floor(log2(num_heads)): 2^(-bias_max*i/k) for i = 1..k, then every other slope of 2k.
    On the CPU even if models are built on the meta device, since slopes are not loaded later.
    """
    closest = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-bias_max * i / closest) for i in range(1, closest + 1)]
    doubled = [2.0 ** (-bias_max * i / (2 * closest)) for i in range(1, 2 * closest + 1, 2)]
    return torch.tensor((slopes + doubled)[:num_heads], dtype=torch.float32, device="cpu")

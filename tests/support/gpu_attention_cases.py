"""Calls of the attention wrappers at shapes that users meet, for ``gpu_cases``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from atoll_kernels.attention import AttentionArgs, PagedKV
from atoll_kernels.disentangled import DistanceTables
from atoll_kernels.gpu import (
    disentangled,
    flash,
    latent,
)

_HALF = torch.float16


def _cu(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()


def varlen(
    dtype: torch.dtype, num_heads: int, num_kv_heads: int, head_dim: int, *, causal: bool = False,
    window: int | None = None, softcap: float | None = None, alibi: bool = False,
    relative: bool = False, sinks: bool = False, lengths: tuple[int, ...] = (512, 88),
) -> None:  # fmt: skip
    """Attention over packed sequences."""
    qkv = torch.empty(sum(lengths), num_heads + 2 * num_kv_heads, head_dim, dtype=dtype)
    q, k, v = qkv.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
    flash.varlen(
        q, k, v, _cu(*lengths), _cu(*lengths),
        AttentionArgs(
            0.1, causal, window, softcap, alibi_slopes=torch.empty(num_heads) if alibi else None,
            relative_bias=torch.empty(num_heads, 257) if relative else None,
            sinks=torch.empty(num_heads) if sinks else None,
        ),
    )  # fmt: skip


def paged(
    dtype: torch.dtype, num_heads: int, num_kv_heads: int, head_dim: int, tokens: tuple[int, ...],
    *, window: int | None = None, softcap: float | None = None, alibi: bool = False,
    sinks: bool = False, decode: bool = False, width: int = 128,
) -> None:  # fmt: skip
    """Attention over a paged cache, in prefill or decoding."""
    cache = torch.empty(64, 16, num_kv_heads, head_dim, dtype=dtype)
    q = torch.empty(sum(tokens), num_heads, head_dim, dtype=dtype)
    op = flash.paged_decode if decode else flash.paged_prefill
    table = torch.zeros(len(tokens), width, dtype=torch.int32)
    slopes = torch.empty(num_heads) if alibi else None
    op(
        q, PagedKV(cache, cache, table, torch.tensor(tokens, dtype=torch.int32)), _cu(*tokens),
        AttentionArgs(
            0.1, causal=True, window=window, softcap=softcap, alibi_slopes=slopes,
            sinks=torch.empty(num_heads) if sinks else None,
        ),
    )  # fmt: skip


def _latent(dtype: torch.dtype, num_heads: int, tokens: tuple[int, ...] = (1,) * 4) -> None:
    cache = torch.empty(64, 16, 1, 576, dtype=dtype)
    table = torch.zeros(len(tokens), 128, dtype=torch.int32)
    lengths = torch.tensor(tokens, dtype=torch.int32)
    latent.paged(
        torch.empty(sum(tokens), num_heads, 576, dtype=dtype),
        PagedKV(cache, cache[..., :512], table, lengths), _cu(*tokens), AttentionArgs(0.1, True),
    )  # fmt: skip


def _disentangled(dtype: torch.dtype, head_dim: int) -> None:
    qkv = torch.empty(600, 36, head_dim, dtype=dtype)
    table = torch.empty(512, 12, head_dim, dtype=dtype)
    rows = torch.zeros(1023, dtype=torch.int32)
    tables = DistanceTables(table, table, rows)
    disentangled.disentangled_attention(*qkv.split(12, 1), tables, _cu(512, 88), 0.1)


ATTENTION: dict[str, Callable[[], None]] = {
    "flash-d64": partial(varlen, _HALF, 12, 12, 64),
    "flash-d64-alibi": partial(varlen, _HALF, 12, 12, 64, alibi=True),
    "flash-d64-relative": partial(varlen, _HALF, 12, 12, 64, relative=True),
    "flash-d64-bf16": partial(varlen, torch.bfloat16, 12, 12, 64),
    "flash-d64-fp32": partial(varlen, torch.float32, 12, 12, 64),
    "flash-d64-window": partial(varlen, _HALF, 12, 12, 64, window=64),
    "flash-d64-short-seqlen": partial(varlen, _HALF, 12, 12, 64, lengths=(5, 32)),
    "flash-d64-short-seqlen-window": partial(varlen, _HALF, 12, 12, 64, window=8, lengths=(5, 32)),
    "flash-d128-short-seqlen": partial(varlen, _HALF, 32, 8, 128, causal=True, lengths=(5, 32)),
    "flash-d80": partial(varlen, _HALF, 8, 8, 80, causal=True),
    "flash-d128": partial(varlen, _HALF, 32, 8, 128, causal=True),
    "flash-d128-window": partial(varlen, _HALF, 32, 8, 128, causal=True, window=128),
    "flash-d128-alibi": partial(varlen, _HALF, 32, 32, 128, causal=True, alibi=True),
    "flash-d128-fp32": partial(varlen, torch.float32, 32, 8, 128, causal=True),
    "flash-d256": partial(varlen, _HALF, 8, 8, 256, causal=True),
    "flash-d128-softcap": partial(varlen, _HALF, 32, 16, 128, causal=True, softcap=50.0),
    "flash-d256-softcap": partial(varlen, _HALF, 8, 4, 256, causal=True, softcap=50.0),
    "flash-d256-window": partial(varlen, _HALF, 16, 8, 256, causal=True, window=128),
    "flash-d256-fp32": partial(varlen, torch.float32, 8, 8, 256, causal=True),
    "prefill-d64": partial(paged, _HALF, 9, 3, 64, (100, 28)),
    "prefill-d128": partial(paged, _HALF, 32, 8, 128, (100, 28)),
    "prefill-d128-window": partial(paged, _HALF, 32, 8, 128, (100, 28), window=64),
    "prefill-d128-alibi": partial(paged, _HALF, 32, 32, 128, (100, 28), alibi=True),
    "prefill-d256": partial(paged, _HALF, 8, 8, 256, (100, 28)),
    "prefill-d128-softcap": partial(paged, _HALF, 32, 16, 128, (100, 28), softcap=50.0),
    "prefill-d256-softcap": partial(paged, _HALF, 8, 4, 256, (100, 28), softcap=50.0, window=64),
    "prefill-d256-window": partial(paged, _HALF, 4, 1, 256, (600, 28), window=512),
    "prefill-d256-short-qlen-window": partial(paged, _HALF, 4, 1, 256, (5, 1, 3), window=512),
    "prefill-d256-fp32-window": partial(paged, torch.float32, 4, 1, 256, (600, 28), window=512),
    "prefill-d64-short-qlen": partial(paged, _HALF, 9, 3, 64, (5, 1, 3)),
    "prefill-d128-short-qlen": partial(paged, _HALF, 32, 8, 128, (5, 1, 3)),
    "prefill-d128-fp32": partial(paged, torch.float32, 32, 8, 128, (100, 28)),
    "decode-d64": partial(paged, _HALF, 9, 3, 64, (1,) * 4, decode=True),
    "decode-d64-fp32": partial(paged, torch.float32, 9, 3, 64, (1,) * 4, decode=True),
    "decode-d80": partial(paged, _HALF, 32, 32, 80, (1,) * 4, decode=True),
    "decode-d128": partial(paged, _HALF, 32, 8, 128, (1,) * 4, decode=True),
    "decode-d128-bf16": partial(paged, torch.bfloat16, 32, 8, 128, (1,) * 4, decode=True),
    "decode-d128-window": partial(paged, _HALF, 32, 8, 128, (1,) * 4, decode=True, window=64),
    "decode-d128-alibi": partial(paged, _HALF, 32, 32, 128, (1,) * 4, decode=True, alibi=True),
    "flash-d64-sinks": partial(varlen, _HALF, 64, 8, 64, causal=True, sinks=True),
    "prefill-d64-sinks": partial(paged, _HALF, 64, 8, 64, (100, 28), window=128, sinks=True),
    "prefill-d64-sinks-bf16": partial(paged, torch.bfloat16, 64, 8, 64, (100, 28), sinks=True),
    "decode-d64-sinks": partial(
        paged, _HALF, 64, 8, 64, (1,) * 4, decode=True, window=128, sinks=True
    ),
    "decode-d64-sinks-bf16": partial(
        paged, torch.bfloat16, 64, 8, 64, (1,) * 4, decode=True, sinks=True
    ),
    "decode-mqa71": partial(paged, _HALF, 71, 1, 64, (1,) * 4, decode=True),
    "decode-mqa48": partial(paged, _HALF, 48, 1, 128, (1,) * 4, decode=True),
    "decode-d128-fp32": partial(paged, torch.float32, 32, 8, 128, (1,) * 4, decode=True),
    "decode-d256": partial(paged, _HALF, 16, 1, 256, (1,) * 4, decode=True),
    "decode-d256-softcap": partial(paged, _HALF, 8, 4, 256, (1,) * 4, decode=True, softcap=50.0),
    "decode-d256-window": partial(paged, _HALF, 4, 1, 256, (1,) * 4, decode=True, window=512),
    "decode-d256-fp32": partial(paged, torch.float32, 16, 1, 256, (1,) * 4, decode=True),
    "flash-d512": partial(varlen, _HALF, 8, 1, 512, causal=True),
    "flash-d512-both-sides": partial(varlen, _HALF, 8, 1, 512),
    "prefill-d512": partial(paged, _HALF, 8, 1, 512, (100, 28)),
    "prefill-d512-bf16": partial(paged, torch.bfloat16, 8, 1, 512, (100, 28)),
    "prefill-d512-short-qlen": partial(paged, _HALF, 8, 1, 512, (5, 1, 3)),
    "decode-d512": partial(paged, _HALF, 8, 1, 512, (1,) * 4, decode=True),
    "decode-d512-bf16": partial(paged, torch.bfloat16, 8, 1, 512, (1,) * 4, decode=True),
    "latent-decode": partial(_latent, _HALF, 16),
    "latent-decode-bf16": partial(_latent, torch.bfloat16, 16),
    "latent-decode-mqa128": partial(_latent, _HALF, 128),
    "latent-decode-mqa128-bf16": partial(_latent, torch.bfloat16, 128),
    "latent-prefill": partial(_latent, _HALF, 128, (100, 28)),
    "disentangled-d64": partial(_disentangled, _HALF, 64),
    "disentangled-d64-bf16": partial(_disentangled, torch.bfloat16, 64),
    "disentangled-d64-fp32": partial(_disentangled, torch.float32, 64),
    "disentangled-d128": partial(_disentangled, _HALF, 128),
    "disentangled-d128-fp32": partial(_disentangled, torch.float32, 128),
}

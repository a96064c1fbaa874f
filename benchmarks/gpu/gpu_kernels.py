"""Every GPU kernel at the shapes of real models, compared with torch, flash-attn and its limit: the
shortest possible time for its products and memory traffic on the device.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from gpu_inputs import Heads, cu_seqlens, dense
from gpu_measure import DTYPES, Bench, Row, attempt
from torch import Tensor

from atoll_kernels import Routing, reference
from atoll_kernels.attention import AttentionArgs, PagedKV, alibi_slopes
from atoll_kernels.gpu import activation, flash, moe, norm, quantized, rope, sampling

Call = Callable[[], object]
_BLOCK = 16
# Shares of the limit to reach.
GOALS = {"varlen_attention": 0.6, "paged_decode": 0.8}


@dataclass(frozen=True)
class Timed:
    """A kernel at one shape, its work, and other implementations."""

    ours: Call
    flops: float
    num_bytes: float
    peers: Mapping[str, Call] = field(default_factory=dict)


Build = Callable[[Bench, torch.dtype], Timed]
BGE_BASE, LLAMA, MISTRAL = Heads(12, 12, 64), Heads(32, 32, 128), Heads(32, 8, 128)
STARCODER, FALCON = Heads(48, 1, 128), Heads(128, 8, 64)
_DRY = Heads(2, 1, 16)


def timings(bench: Bench) -> Iterator[Row]:
    """Rows: kernel, case, dtype, us, clock, flops, bytes, limit_us, share, goal, peers."""
    seen: set[str] = set()
    for kernel, case, dtype, build in _cases():
        # In a dry run, a kernel's cases have the same sizes; only masks differ.
        if bench.is_dry and kernel in seen and kernel != "varlen_attention":
            continue
        seen.add(kernel)
        row: Row = {"kernel": kernel, "case": case, "dtype": dtype, "goal": GOALS.get(kernel)}
        yield attempt(row, partial(_measure, bench, build, dtype))
        bench.release()


def _measure(bench: Bench, build: Build, dtype: str) -> Row:
    torch.manual_seed(0)
    timed = build(bench, DTYPES[dtype])
    us, clock = bench.time_us(timed.ours)
    limit = bench.peaks.limit_us(dtype, timed.flops, timed.num_bytes)
    peers: dict[str, float | str] = {}
    for name, call in timed.peers.items():
        try:
            peers[name] = bench.time_us(call)[0]
        except Exception as error:
            peers[name] = f"{type(error).__name__}: {str(error)[:200]}"
    return {
        "us": us, "clock": clock, "flops": timed.flops, "bytes": timed.num_bytes,
        "limit_us": limit, "share": limit / us, "peers": peers,
    }  # fmt: skip


def _cases() -> Iterator[tuple[str, str, str, Build]]:
    yield "rms_norm", "Llama-2-7B, 2048 tokens", "bf16", partial(_norm, True, 2048, 4096)
    yield "rms_norm", "Llama-2-7B, 64 tokens", "bf16", partial(_norm, True, 64, 4096)
    yield "layer_norm", "bge-base, 16384 tokens", "fp16", partial(_norm, False, 16384, 768)
    yield "gated_activation", "Llama-2-7B, 2048 tokens", "bf16", partial(_gated, 2048, 11008)
    yield "rope_write_kv", "Llama-2-7B, 2048 tokens", "bf16", partial(_rope, 2048)
    for case, heads, shape, mask in (
        ("bge-base, 32 x 512", BGE_BASE, (32, 512), {}),
        ("bge-base, 128 x 128", BGE_BASE, (128, 128), {}),
        ("Llama-2-7B, 4 x 2048", LLAMA, (4, 2048), {"causal": True}),
        ("Mistral-7B, 2 x 8192", MISTRAL, (2, 8192), {"causal": True, "window": 4096}),
        ("ALiBi, 4 x 2048", LLAMA, (4, 2048), {"causal": True, "alibi": True}),
    ):
        yield "varlen_attention", case, "bf16", partial(_varlen, heads, *shape, mask)
    yield "paged_prefill", "Mistral-7B, 4 x 512 on 2048", "bf16", partial(_prefill, MISTRAL, 4)
    for name, heads, batch, context in (
        ("Llama-2-7B", LLAMA, 1, 512), ("Llama-2-7B", LLAMA, 64, 512),
        ("Llama-2-7B", LLAMA, 256, 512), ("Llama-2-7B", LLAMA, 64, 4096),
        ("Mistral-7B", MISTRAL, 1, 4096), ("Mistral-7B", MISTRAL, 256, 4096),
        ("StarCoder", STARCODER, 64, 2048), ("Falcon-40B", FALCON, 64, 2048),
    ):  # fmt: skip
        case = f"{name}, {batch} x {context}"
        yield "paged_decode", case, "bf16", partial(_decode, heads, batch, context)
    for rows in (1, 16, 512):
        for bits in (4, 8):
            case = f"Llama-2-7B up, {rows} rows"
            yield f"linear int{bits}", case, "fp16", partial(_quantized, bits, rows)
        yield "mixture_of_experts", f"Mixtral-8x7B, {rows} tokens", "bf16", partial(_experts, rows)
    yield "sample", "64 x 32000, top-k and top-p", "fp32", partial(_sample, 64)


def _randn(bench: Bench, *shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=dtype, device=bench.device)


def _projections(bench: Bench, heads: Heads, rows: int, dtype: torch.dtype) -> list[Tensor]:
    """q, k and v, (rows, heads, head_dim)."""
    counts = (heads.num_heads, heads.num_kv_heads, heads.num_kv_heads)
    return [_randn(bench, rows, count, heads.head_dim, dtype=dtype) for count in counts]


def _norm(is_rms: bool, rows: int, hidden: int, bench: Bench, dtype: torch.dtype) -> Timed:
    rows, hidden = bench.choose((rows, hidden), (4, 64))
    x, residual = (_randn(bench, rows, hidden, dtype=dtype) for _ in range(2))
    weights = [_randn(bench, hidden, dtype=dtype) for _ in range(1 if is_rms else 2)]
    name = "rms_norm" if is_rms else "layer_norm"
    ours, peer = getattr(norm, name), getattr(F, name)
    return Timed(
        lambda: ours(x, *weights, 1e-6, residual), 8.0 * x.numel(), 4.0 * x.nbytes,
        {"torch": lambda: peer(x + residual, (hidden,), *weights, 1e-6)},
    )  # fmt: skip


def _gated(rows: int, inter: int, bench: Bench, dtype: torch.dtype) -> Timed:
    rows, inter = bench.choose((rows, inter), (4, 64))
    x = _randn(bench, rows, 2 * inter, dtype=dtype)
    gate, up = x.chunk(2, dim=1)
    return Timed(
        lambda: activation.gated_activation(x, "silu"), 3.0 * x.numel(), 1.5 * x.nbytes,
        {"torch": lambda: F.silu(gate) * up},
    )  # fmt: skip


def _rope(rows: int, bench: Bench, dtype: torch.dtype) -> Timed:
    rows, heads = bench.choose((rows, LLAMA), (4, _DRY))
    q, k, v = _projections(bench, heads, rows, dtype)
    caches = _caches(bench, heads, -(-rows // _BLOCK), dtype)
    places = torch.arange(rows, device=bench.device)
    angles = torch.rand(rows, heads.head_dim // 2, device=bench.device)
    arguments = (q, k, v, places, angles.cos(), angles.sin(), *caches, places)
    return Timed(
        lambda: rope.rope_write_kv(*arguments), 6.0 * (q.numel() + k.numel()),
        2.0 * (q.nbytes + k.nbytes) + 3.0 * v.nbytes,
        {"torch": lambda: reference.rope_write_kv(*arguments)},
    )  # fmt: skip


def _varlen(
    heads: Heads, batch: int, length: int, mask: dict[str, Any], bench: Bench, dtype: torch.dtype
) -> Timed:
    heads, batch, length = bench.choose((heads, batch, length), (_DRY, 2, 20))
    window = bench.choose(mask.get("window"), mask.get("window") and 8)
    causal = mask.get("causal", False)
    slopes = alibi_slopes(heads.num_heads).to(bench.device) if "alibi" in mask else None
    q, k, v = _projections(bench, heads, batch * length, dtype)
    cu = cu_seqlens([length] * batch, bench.device)
    args = AttentionArgs(heads.scale, causal, window, alibi_slopes=slopes)
    places = torch.arange(length, device=bench.device)
    offset = places - places[:, None]
    hidden = offset.abs() >= (window or length)
    if causal:
        hidden |= offset > 0
    bias = None
    if window is not None or slopes is not None:
        slope = 0.0 if slopes is None else slopes.view(1, -1, 1, 1)
        bias = (-slope * offset.abs()).masked_fill(hidden, float("-inf")).to(dtype)
    batched = [x.view(batch, length, -1, heads.head_dim).transpose(1, 2) for x in (q, k, v)]
    side = -1 if window is None else window - 1
    peers: dict[str, Call] = {
        "sdpa": lambda: F.scaled_dot_product_attention(
            *batched, attn_mask=bias, is_causal=causal and bias is None, scale=heads.scale,
            enable_gqa=heads.num_heads != heads.num_kv_heads,
        ),
        "torch-flash": lambda: torch.ops.aten._flash_attention_forward(
            q, k, v, cu, cu, length, length, 0.0, causal, False, scale=heads.scale,
            window_size_left=side, window_size_right=0 if causal else side, alibi_slopes=slopes,
        ),
        "flash-attn": _flash_attn(
            "flash_attn_varlen_func", q, k, v, cu, cu, length, length, softmax_scale=heads.scale,
            causal=causal, window_size=(side, 0 if causal else side), alibi_slopes=slopes,
        ),
    }  # fmt: skip
    return Timed(
        lambda: flash.varlen(q, k, v, cu, cu, args),
        4.0 * batch * heads.num_heads * heads.head_dim * float((~hidden).sum()),
        2.0 * q.nbytes + k.nbytes + v.nbytes, peers,
    )  # fmt: skip


def _flash_attn(name: str, *arguments: Any, **options: Any) -> Call:
    """A call of the flash-attn package; raises ImportError if it is not installed."""
    return lambda: getattr(importlib.import_module("flash_attn"), name)(*arguments, **options)


def _caches(bench: Bench, heads: Heads, num_blocks: int, dtype: torch.dtype) -> list[Tensor]:
    shape = (num_blocks, _BLOCK, heads.num_kv_heads, heads.head_dim)
    return [_randn(bench, *shape, dtype=dtype) for _ in "kv"]


def _paged(
    bench: Bench, heads: Heads, batch: int, context: int, num_new: int, dtype: torch.dtype
) -> tuple[Tensor, PagedKV, Tensor]:
    """q, the cache it attends to (blocks in random order), and cu_seqlens."""
    blocks = -(-context // _BLOCK)
    caches = _caches(bench, heads, batch * blocks, dtype)
    table = torch.randperm(batch * blocks, device=bench.device).int().view(batch, blocks)
    ends = cu_seqlens([num_new] * batch, bench.device)
    lengths = torch.full((batch,), context, dtype=torch.int32, device=bench.device)
    q = _randn(bench, batch * num_new, heads.num_heads, heads.head_dim, dtype=dtype)
    return q, PagedKV(*caches, table, lengths), ends


def _prefill(heads: Heads, batch: int, bench: Bench, dtype: torch.dtype) -> Timed:
    heads, batch, context, num_new = bench.choose((heads, batch, 2048, 512), (_DRY, 2, 20, 5))
    q, kv, ends = _paged(bench, heads, batch, context, num_new, dtype)
    key_ends = ends // num_new * context
    k, v = (x.flatten(0, 1)[: batch * context] for x in (kv.keys, kv.values))
    pairs = num_new * (context - num_new) + num_new * (num_new + 1) // 2
    return Timed(
        lambda: flash.paged_prefill(q, kv, ends, AttentionArgs(heads.scale, causal=True)),
        4.0 * batch * heads.num_heads * heads.head_dim * pairs,
        2.0 * q.nbytes + k.nbytes + v.nbytes,
        {"torch-flash, not paged": lambda: torch.ops.aten._flash_attention_forward(
            q, k, v, ends, key_ends, num_new, context, 0.0, True, False, scale=heads.scale,
        )},
    )  # fmt: skip


def _decode(heads: Heads, batch: int, context: int, bench: Bench, dtype: torch.dtype) -> Timed:
    heads, batch, context = bench.choose((heads, batch, context), (_DRY, 2, 32))
    q, kv, ends = _paged(bench, heads, batch, context, 1, dtype)
    shape = (batch, context, heads.num_kv_heads, heads.head_dim)
    k, v = (x.view(shape) for x in (kv.keys, kv.values))
    query = q.unsqueeze(1)
    return Timed(
        lambda: flash.paged_decode(q, kv, ends, AttentionArgs(heads.scale, causal=True)),
        4.0 * batch * context * heads.num_heads * heads.head_dim,
        2.0 * q.nbytes + k.nbytes + v.nbytes,
        {
            "sdpa, not paged": lambda: F.scaled_dot_product_attention(
                query.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=heads.scale,
                enable_gqa=heads.num_heads != heads.num_kv_heads,
            ),
            "flash-attn, not paged": _flash_attn(
                "flash_attn_with_kvcache", query, k, v, cache_seqlens=kv.seq_lens,
                softmax_scale=heads.scale,
            ),
        },
    )  # fmt: skip


def _quantized(bits: int, rows: int, bench: Bench, dtype: torch.dtype) -> Timed:
    rows, inputs, outputs = bench.choose((rows, 4096, 11008), (min(rows, 3), 64, 96))
    weight = _randn(bench, outputs, inputs, dtype=dtype) * inputs**-0.5
    packed = quantized.pack_linear(weight, None, f"int{bits}", bench.choose(128, 32))
    assert packed is not None
    x = _randn(bench, rows, inputs, dtype=dtype)
    return Timed(
        lambda: packed.forward(x), 2.0 * rows * weight.numel(),
        float(sum(t.nbytes for t in packed.tensors) + x.nbytes + 2 * rows * outputs),
        {"torch, dense": lambda: F.linear(x, weight)},
    )  # fmt: skip


def _experts(rows: int, bench: Bench, dtype: torch.dtype) -> Timed:
    """Eight experts, two for each token; the traffic is that of the experts that are used."""
    rows, hidden, inter = bench.choose((rows, 4096, 14336), (min(rows, 3), 32, 48))
    sides = [
        dense([_randn(bench, n, m, dtype=dtype) * m**-0.5 for _ in range(8)])
        for n, m in ((2 * inter, hidden), (hidden, inter))
    ]
    x, logits = (_randn(bench, rows, n, dtype=dtype) for n in (hidden, 8))
    packed = moe.pack_experts(x, *sides)
    assert packed is not None
    loop = reference.pack_experts(x, *sides)
    reached = 8 * (1 - (1 - 2 / 8) ** rows)
    return Timed(
        lambda: packed.forward(x, logits, Routing(2), "silu"),
        2.0 * 2 * rows * 3 * hidden * inter,
        reached * 3 * hidden * inter * x.element_size() + 2.0 * x.nbytes,
        {"torch": lambda: loop.forward(x, logits, Routing(2), "silu")},
    )  # fmt: skip


def _sample(rows: int, bench: Bench, dtype: torch.dtype) -> Timed:
    rows, vocab = bench.choose((rows, 32000), (2, 60))
    logits = 2 * _randn(bench, rows, vocab, dtype=dtype)
    ones = torch.ones(rows, device=bench.device)
    arguments = (
        logits, ones, torch.full((rows,), 50, dtype=torch.int32, device=bench.device), 0.9 * ones,
        torch.rand(rows, dtype=torch.float64, device=bench.device),
    )  # fmt: skip
    return Timed(
        lambda: sampling.sample(*arguments), 4.0 * logits.numel(), float(logits.nbytes),
        {"torch": lambda: reference.sample(*arguments)},
    )  # fmt: skip

"""Native attention, packed and paged, against float64."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from native import LEVELS, native_level
from torch import Tensor

from atoll_kernels.attention import AttentionArgs, PagedKV, alibi_slopes
from atoll_kernels.cpu import attention

DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2e-2}
LENGTHS = [0, 1, 7, 261, 33]
PLAIN = AttentionArgs(0.125, causal=False)
SHAPES = [(4, 4, 32), (6, 2, 80), (48, 1, 64), (3, 3, 256), (12, 12, 10)]
VARIANTS = [
    "full", "causal", "window", "causal-window", "alibi", "causal-alibi", "relative",
    "causal-softcap", "causal-window-softcap", "causal-alibi-softcap", "causal-sinks",
]  # fmt: skip


@pytest.fixture(params=LEVELS, ids=lambda level: level.name, autouse=True)
def _level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    native_level(request.param, monkeypatch)
    torch.manual_seed(0)
    yield


def cu(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()


def options(variant: str, num_heads: int, head_dim: int = 64) -> AttentionArgs:
    """A window that is shorter than any block, slopes of any head count, a low cap."""
    chosen: dict[str, Any] = {"causal": "causal" in variant}
    if "softcap" in variant:
        chosen["softcap"] = 1.5
    if "window" in variant:
        chosen["window"] = 5
    if "alibi" in variant:
        chosen["alibi_slopes"] = alibi_slopes(num_heads)
    if "sinks" in variant:
        chosen["sinks"] = 2 * torch.randn(num_heads)
    if variant == "relative":
        chosen["relative_bias"] = torch.randn(num_heads, 41)
    return AttentionArgs(head_dim**-0.5, **chosen)


def expected(q: Tensor, k: Tensor, v: Tensor, o: AttentionArgs) -> Tensor:
    """One sequence in float64: (queries, heads, value_dim), the last positions of the keys."""
    queries, keys = q.shape[0], k.shape[0]
    k, v = (x.double().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.double(), k) * o.scale
    if o.softcap is not None:
        scores = o.softcap * (scores / o.softcap).tanh()
    offset = torch.arange(keys) - torch.arange(keys - queries, keys).unsqueeze(1)
    if o.alibi_slopes is not None:
        scores -= o.alibi_slopes.double().view(-1, 1, 1) * offset.abs()
    if o.relative_bias is not None:
        reach = o.relative_bias.shape[1] // 2
        scores += o.relative_bias.double()[:, offset.clamp(-reach, reach) + reach]
    if o.causal:
        scores = scores.masked_fill(offset > 0, -math.inf)
    if o.window is not None:
        scores = scores.masked_fill(offset.abs() >= o.window, -math.inf)
    if o.sinks is not None:
        column = o.sinks.double().view(-1, 1, 1).expand(-1, queries, 1)
        scores = torch.cat([scores, column], -1)
    weights = scores.softmax(-1).nan_to_num(0)[..., :keys]
    return torch.einsum("hqk,khd->qhd", weights, v)


def check(out: Tensor | None, wide: Tensor, dtype: torch.dtype) -> None:
    assert out is not None and out.dtype == dtype and out.is_contiguous()
    error = (out.double() - wide).abs()
    assert not error.numel() or error.max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packed(shape: tuple[int, int, int], variant: str, dtype: torch.dtype) -> None:
    """Views of a fused projection, sequences of no and one token between others."""
    num_heads, num_kv_heads, head_dim = shape
    qkv = torch.randn(sum(LENGTHS), num_heads + 2 * num_kv_heads, head_dim).to(dtype)
    q, k, v = qkv.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
    o, bounds = options(variant, num_heads, head_dim), cu(LENGTHS)
    out = attention.varlen_attention(q, k, v, bounds, bounds, o)
    sequences = zip(q.split(LENGTHS), k.split(LENGTHS), v.split(LENGTHS), strict=True)
    parts = [expected(*x, o) for x in sequences]
    check(out, torch.cat(parts), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_packed_with_fewer_queries_than_keys(dtype: torch.dtype) -> None:
    """Queries are the last positions; a sequence without keys is zero."""
    queries, keys = [2, 5, 3], [9, 0, 600]
    q = torch.randn(sum(queries), 4, 64).to(dtype)
    k, v = torch.randn(2, sum(keys), 2, 64).to(dtype)
    for variant in ("full", "causal", "causal-window"):
        o = options(variant, 4)
        out = attention.varlen_attention(q, k, v, cu(queries), cu(keys), o)
        parts = [
            expected(*x, o) if len(x[1]) else torch.zeros_like(x[0]).double()
            for x in zip(q.split(queries), k.split(keys), v.split(keys), strict=True)
        ]
        check(out, torch.cat(parts), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_packed_with_more_queries_than_keys(dtype: torch.dtype) -> None:
    """Without positions in the scores, every query sees every key."""
    queries, keys = [9, 5, 600, 1], [2, 0, 70, 3]
    q = torch.randn(sum(queries), 4, 64).to(dtype)
    k, v = torch.randn(2, sum(keys), 2, 64).to(dtype)
    out = attention.varlen_attention(q, k, v, cu(queries), cu(keys), PLAIN)
    parts = [
        expected(*x, PLAIN) if len(x[1]) else torch.zeros_like(x[0]).double()
        for x in zip(q.split(queries), k.split(keys), v.split(keys), strict=True)
    ]
    check(out, torch.cat(parts), dtype)


CASES = {
    "decode": ((9, 3, 64), [1, 1, 1, 1], [1, 40, 0, 700]),
    "mixed": ((12, 1, 80), [1, 5, 1, 90], [17, 9, 33, 400]),
    "one-long": ((4, 2, 64), [1], [3000]),
    "draft-long": ((6, 1, 128), [4, 1], [2100, 1]),
    "wide": ((8, 1, 512), [1, 40, 1], [300, 90, 0]),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("window", "alibi")])
@pytest.mark.parametrize("case", CASES)
def test_paged(case: str, variant: str, dtype: torch.dtype) -> None:
    """Blocks in random order; what lies behind a sequence's end, and unused blocks, is NaN."""
    (num_heads, num_kv_heads, head_dim), queries, keys = CASES[case]
    size, counts = 16, [-(-n // 16) for n in keys]
    order = torch.randperm(sum(counts) + 2).int()
    table = torch.full((len(keys), max(counts) + 1), -1, dtype=torch.int32)
    caches = torch.full((2, len(order), size, num_kv_heads, head_dim), math.nan, dtype=dtype)
    q = torch.randn(sum(queries), num_heads, head_dim).to(dtype)
    o, parts, first = options(variant, num_heads, head_dim), [], 0
    for row, (count, length, rows) in enumerate(zip(counts, keys, q.split(queries), strict=True)):
        table[row, :count] = order[first : first + count]
        first += count
        kv = torch.randn(2, length, num_kv_heads, head_dim).to(dtype)
        positions = torch.arange(length)
        caches[:, table[row, positions // size].long(), positions % size] = kv
        if o.window is not None:
            # Blocks that no query sees any more may have been given back.
            table[row, : max(0, (length - len(rows) - o.window + 1) // size)] = -1
        parts.append(expected(rows, kv[0], kv[1], o))
    lengths = torch.tensor(keys, dtype=torch.int32)
    out = attention.paged_attention(q, PagedKV(*caches, table, lengths), cu(queries), o)
    check(out, torch.cat(parts), dtype)


# (query heads, key heads, features of keys, of values): a pair of rows and a block of them each.
NARROW = [(3, 3, 96, 64), (2, 2, 20, 10), (16, 1, 144, 128), (4, 1, 576, 512), (2, 1, 40, 32)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", NARROW, ids=str)
def test_values_narrower_than_keys(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    num_heads, num_kv_heads, head_dim, value_dim = shape
    q = torch.randn(sum(LENGTHS), num_heads, head_dim).to(dtype)
    k = torch.randn(sum(LENGTHS), num_kv_heads, head_dim).to(dtype)
    v = torch.randn(sum(LENGTHS), num_kv_heads, value_dim).to(dtype)
    for variant in ("full", "causal-sinks"):
        o, bounds = options(variant, num_heads, head_dim), cu(LENGTHS)
        out = attention.varlen_attention(q, k, v, bounds, bounds, o)
        sequences = zip(q.split(LENGTHS), k.split(LENGTHS), v.split(LENGTHS), strict=True)
        check(out, torch.cat([expected(*x, o) for x in sequences]), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("queries", [[1, 1, 1], [1], [5, 2, 9]], ids=str)
@pytest.mark.parametrize("num_heads", [2, 16, 80])
def test_a_latent_cache(num_heads: int, queries: list[int], dtype: torch.dtype) -> None:
    """All query heads read the same rows, whose first features are the values."""
    keys = [700, 40, 600][: len(queries)] if len(queries) > 1 else [2100]
    counts = [-(-n // 16) for n in keys]
    cache = torch.full((sum(counts), 16, 1, 72), math.nan, dtype=dtype)
    order = torch.randperm(len(cache)).int()
    table = torch.zeros(len(keys), max(counts), dtype=torch.int32)
    q = torch.randn(sum(queries), num_heads, 72).to(dtype)
    o, parts, first = options("causal", num_heads, 72), [], 0
    for row, (count, length, rows) in enumerate(zip(counts, keys, q.split(queries), strict=True)):
        table[row, :count] = order[first : first + count]
        first += count
        latent = torch.randn(length, 1, 72).to(dtype)
        places = torch.arange(length)
        cache[table[row, places // 16].long(), places % 16] = latent
        parts.append(expected(rows, latent, latent[..., :64], o))
    kv = PagedKV(cache, cache[..., :64], table, torch.tensor(keys, dtype=torch.int32))
    check(attention.paged_attention(q, kv, cu(queries), o), torch.cat(parts), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 2, 64), (4, 1, 40)], ids=str)
def test_keys_beyond_a_window_on_both_sides_cost_nothing(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """NaN times a weight of 0 is NaN: an output without it has not met the keys and values there.

    What is multiplied together are rows of queries and vectors of keys, of 64 at most.
    """
    num_heads, num_kv_heads, head_dim = shape
    length, start, end, window = 1100, 500, 620, 17
    q = torch.randn(length, num_heads, head_dim).to(dtype)
    k, v = torch.randn(2, length, num_kv_heads, head_dim).to(dtype)
    o = AttentionArgs(0.1, causal=False, window=window)
    wide = expected(q, k, v, o)
    k[start:end] = v[start:end] = math.nan
    out = attention.varlen_attention(q, k, v, cu([length]), cu([length]), o)
    assert out is not None and bool(out[start - window + 1 : end + window - 1].isnan().all())
    for rows in (slice(0, start - window - 64), slice(end + window + 64, length)):
        check(out[rows], wide[rows], dtype)


def test_scores_far_beyond_a_soft_cap() -> None:
    """The kernels' tanh saturates, and a high cap changes nothing of small scores."""
    q, k, v = torch.randn(3, 40, 2, 64)
    for scale, softcap in ((30.0, 2.0), (1e-3, 50.0), (1e30, 50.0)):
        args = AttentionArgs(scale, causal=True, softcap=softcap)
        out = attention.varlen_attention(q, k, v, cu([40]), cu([40]), args)
        check(out, expected(q, k, v, args), q.dtype)


@pytest.mark.parametrize("args", [PLAIN, AttentionArgs(0.125, causal=False, softcap=2.0)])
def test_nan_reaches_the_output_of_its_sequence_alone(args: AttentionArgs) -> None:
    """A model that overflows must not answer with numbers."""
    q = torch.randn(12, 2, 64)
    q[3] = math.nan
    out = attention.varlen_attention(q, q, q, cu([6, 6]), cu([6, 6]), args)
    assert out is not None
    assert bool(out[3].isnan().all()) and not bool(out[6:].isnan().any())


def test_what_it_declines() -> None:
    q = torch.randn(4, 2, 64)
    bounds = cu([4])
    half = q.half()
    assert attention.varlen_attention(half, half, half, bounds, bounds, PLAIN) is None
    assert attention.varlen_attention(q[..., :32], q[..., :32], q, bounds, bounds, PLAIN) is None
    assert attention.varlen_attention(q, q, q[..., :31], bounds, bounds, PLAIN) is None
    odd = torch.randn(4, 2, 63)
    assert attention.varlen_attention(odd, odd, odd, bounds, bounds, PLAIN) is None

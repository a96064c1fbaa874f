"""Attention over packed sequences, and chunks of prefill over the paged cache."""

from typing import Any

import pytest
import torch
from interpreted import DEVICE, DTYPES, assert_close, check, randn
from torch import Tensor

from atoll_kernels import reference
from atoll_kernels.attention import AttentionArgs, PagedKV, alibi_slopes
from atoll_kernels.gpu import flash

# Tiles of the interpreter are 16 rows: one row, a tile's end, an empty sequence, several tiles.
LENGTHS = (1, 33, 0, 16, 18)
MASKS: dict[str, dict[str, Any]] = {
    "full": {},
    "causal": {"causal": True},
    "causal-window": {"causal": True, "window": 7},
    "window": {"window": 7},
    "window-1": {"causal": True, "window": 1},
    "window-wide": {"causal": True, "window": 24},
    "alibi": {"alibi_slopes": True},
    "causal-alibi": {"causal": True, "alibi_slopes": True},
    "relative": {"relative_bias": True},
    "softcap": {"causal": True, "softcap": 1.5},
    "sinks": {"causal": True, "sinks": True},
    "all": {
        "causal": True, "window": 20, "softcap": 3.0, "alibi_slopes": True, "relative_bias": True,
        "sinks": True,
    },
}  # fmt: skip
SHORT = ("full", "causal-window")


def options(num_heads: int, head_dim: int, mask: dict[str, Any]) -> AttentionArgs:
    found = {"causal": False, **mask}
    if "alibi_slopes" in found:
        found["alibi_slopes"] = alibi_slopes(num_heads).to(DEVICE)
    if "relative_bias" in found:
        found["relative_bias"] = randn(num_heads, 21, seed=9)
    if "sinks" in found:
        found["sinks"] = 2 * randn(num_heads, seed=8)
    return AttentionArgs(head_dim**-0.5, **found)


def cu_seqlens(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths], device=DEVICE).cumsum(0).int()


def packed(
    num_heads: int, num_kv_heads: int, head_dim: int, tokens: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v as slices of one projection."""
    qkv = randn(tokens, num_heads + 2 * num_kv_heads, head_dim, seed=1, dtype=dtype)
    q, k, v = qkv.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
    return q, k, v


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_masks(mask: dict[str, Any]) -> None:
    cu = cu_seqlens(*LENGTHS)
    tensors = packed(2, 1, 16, sum(LENGTHS), torch.float32)
    check(flash.varlen, reference.varlen_attention, *tensors, cu, cu, options(2, 16, mask))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("mask", ["full", "all"])
def test_half_precision(dtype: torch.dtype, mask: str) -> None:
    cu = cu_seqlens(5, 33)
    tensors = packed(2, 2, 16, 38, dtype)
    check(flash.varlen, reference.varlen_attention, *tensors, cu, cu,
          options(2, 16, MASKS[mask]))  # fmt: skip


@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [
    (1, 1, 80), (3, 3, 8), (6, 2, 64), (48, 1, 16), (2, 1, 96), (1, 1, 256), (2, 1, 512),
])  # fmt: skip
def test_heads(num_heads: int, num_kv_heads: int, head_dim: int) -> None:
    """Head sizes that are no power of two, shared key heads, multi-query with 48 heads."""
    cu = cu_seqlens(19)
    tensors = packed(num_heads, num_kv_heads, head_dim, 19, torch.float32)
    given = options(num_heads, head_dim, MASKS["causal"])
    check(flash.varlen, reference.varlen_attention, *tensors, cu, cu, given)


def test_alibi_of_twelve_heads() -> None:
    """Slopes of a head count that is no power of two."""
    cu = cu_seqlens(20)
    tensors = packed(12, 12, 16, 20, torch.float32)
    check(flash.varlen, reference.varlen_attention, *tensors, cu, cu,
          options(12, 16, MASKS["alibi"]))  # fmt: skip


@pytest.mark.parametrize("mask", ["full", "causal", "causal-window", "relative"])
def test_fewer_queries_than_keys(mask: str) -> None:
    """The queries of a sequence are its last positions; without keys, rows are zero."""
    q, k, v = packed(2, 1, 16, 70, torch.float32)
    check(flash.varlen, reference.varlen_attention, q[:23], k, v, cu_seqlens(3, 20, 0),
          cu_seqlens(30, 20, 20), options(2, 16, MASKS[mask]))  # fmt: skip


def test_more_queries_than_keys() -> None:
    """Without positions in the scores, every query sees every key."""
    q, k, v = packed(2, 2, 16, 40, torch.float32)
    check(flash.varlen, reference.varlen_attention, q, k[:23], v[:23], cu_seqlens(5, 33, 2),
          cu_seqlens(3, 20, 0), options(2, 16, {}))  # fmt: skip


def test_rows_without_keys_are_zero() -> None:
    q, k, v = packed(1, 1, 16, 20, torch.float32)
    out = flash.varlen(q, k, v, cu_seqlens(4, 16), cu_seqlens(0, 16), options(1, 16, {}))
    assert torch.equal(out[:4], torch.zeros_like(out[:4])) and out[4:].abs().min() > 0


def test_keys_beyond_a_window_on_both_sides_are_skipped() -> None:
    """NaN times a weight of 0 is NaN: tiles without it have not met the keys and values there."""
    q, k, v = (x.clone() for x in packed(1, 1, 16, 160, torch.float32))
    cu, given = cu_seqlens(160), options(1, 16, MASKS["window"])
    expected = reference.varlen_attention(q, k, v, cu, cu, given)
    k[70:90] = v[70:90] = float("nan")
    out = flash.varlen(q, k, v, cu, cu, given)
    assert bool(out[64:96].isnan().any()) and not bool(out[:48].isnan().any())
    # Tiles of 16 queries; keys 64 to 95 are tiles with NaN.
    assert_close(out[:48], expected[:48].double())
    assert_close(out[112:], expected[112:].double())


def test_neighbours_do_not_leak() -> None:
    """A sequence next to NaN is what it is alone."""
    q, k, v = (x.clone() for x in packed(1, 1, 16, 40, torch.float32))
    for x in (q, k, v):
        x[20:] = float("nan")
    out = flash.varlen(q, k, v, cu_seqlens(20, 20), cu_seqlens(20, 20), options(1, 16, {}))
    alone = flash.varlen(q[:20], k[:20], v[:20], cu_seqlens(20), cu_seqlens(20),
                         options(1, 16, {}))  # fmt: skip
    assert torch.equal(out[:20], alone)


def paged(
    lengths: tuple[int, ...], num_kv_heads: int, head_dim: int, dtype: torch.dtype, block_size: int,
    window: int | None = None,
) -> PagedKV:  # fmt: skip
    """Blocks shuffled, unused ones NaN, freed ones -1."""
    needed = [-(-n // block_size) for n in lengths]
    ids = torch.randperm(sum(needed) + 2, generator=torch.Generator().manual_seed(3)).tolist()
    k_cache, v_cache = (
        torch.full((len(ids), block_size, num_kv_heads, head_dim), float("nan"), dtype=dtype)
        for _ in range(2)
    )
    table = torch.full((len(lengths), max(needed) + 1), -1, dtype=torch.int32)
    for row, (count, length) in enumerate(zip(needed, lengths, strict=True)):
        for b in range(count):
            if window is not None and (b + 1) * block_size <= length - window - 8:
                continue
            table[row, b] = block = ids.pop()
            filled = min(block_size, length - b * block_size)
            for seed, cache in ((row * 100 + b, k_cache), (row * 100 + b + 50, v_cache)):
                values = randn(filled, num_kv_heads, head_dim, seed=seed, dtype=dtype)
                cache[block, :filled] = values.cpu()
    lens = torch.tensor(lengths, dtype=torch.int32)
    return PagedKV(k_cache.to(DEVICE), v_cache.to(DEVICE), table.to(DEVICE), lens.to(DEVICE))


def clean(q: Tensor, kv: PagedKV, *rest: Any) -> Tensor:
    """The reference reads block 0 for a freed one, and multiplies what it finds by 0."""
    caches = {"keys": kv.keys.nan_to_num(), "values": kv.values.nan_to_num()}
    return reference.paged_attention(q, kv._replace(**caches), *rest)


def run_paged(
    op: Any, counts: tuple[int, ...], lengths: tuple[int, ...], dtype: torch.dtype,
    shape: tuple[int, int, int], mask: dict[str, Any], block_size: int = 16,
) -> Tensor:  # fmt: skip
    """Compares ``op`` with the float64 reference."""
    num_heads, num_kv_heads, head_dim = shape
    kv = paged(lengths, num_kv_heads, head_dim, dtype, block_size, mask.get("window"))
    q = randn(sum(counts), num_heads, head_dim, seed=2, dtype=dtype)
    given = options(num_heads, head_dim, {"causal": True, **mask})
    return check(op, clean, q, kv, cu_seqlens(*counts), given)


PAGED_MASKS = {
    "causal": {}, "window": {"window": 9}, "alibi": {"alibi_slopes": True},
    "relative": {"relative_bias": True}, "full": {"causal": False},
    "softcap": {"softcap": 1.5, "window": 9}, "sinks": {"sinks": True, "window": 9},
}  # fmt: skip


@pytest.mark.parametrize("mask", PAGED_MASKS.values(), ids=PAGED_MASKS.keys())
def test_chunks_over_the_cache(mask: dict[str, Any]) -> None:
    """A first chunk, a later one, a single token, a padded row."""
    run_paged(flash.paged_prefill, (20, 7, 1, 1), (20, 40, 33, 0), torch.float32, (2, 1, 16), mask)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("block_size", [1, 5, 32])
def test_chunks_and_block_sizes(dtype: torch.dtype, block_size: int) -> None:
    run_paged(flash.paged_prefill, (9, 3), (25, 18), dtype, (2, 1, 80), {"window": 12}, block_size)


@pytest.mark.parametrize("mask", PAGED_MASKS.values(), ids=PAGED_MASKS.keys())
def test_decode(mask: dict[str, Any]) -> None:
    """One token each, a padded row of length 0 among them."""
    run_paged(flash.paged_decode, (1, 1, 1, 1), (1, 40, 0, 33), torch.float32, (2, 1, 16), mask)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "mask"), [
    ((48, 1, 16), {}), ((2, 2, 80), {"window": 9}), ((12, 12, 8), {"alibi_slopes": True}),
    ((6, 2, 64), {}), ((4, 1, 512), {}),
], ids=["mqa48", "d80", "alibi12", "gqa", "d512"])  # fmt: skip
def test_decode_heads(
    dtype: torch.dtype, shape: tuple[int, int, int], mask: dict[str, Any]
) -> None:
    run_paged(flash.paged_decode, (1, 1), (19, 34), dtype, shape, mask)


def test_decode_of_several_tokens_each() -> None:
    """Drafts: the kernel is for one token, and right for more."""
    run_paged(flash.paged_decode, (3, 1, 2), (9, 20, 2), torch.float32, (2, 1, 16), {"window": 6})


@pytest.mark.parametrize("splits", [1, 3, 7])
def test_decode_splits(splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More splits than tiles of keys leave empty shares, which count for nothing."""
    monkeypatch.setattr(flash, "num_splits", lambda programs, capacity: splits)
    for mask in ({}, {"sinks": True}):
        run_paged(flash.paged_decode, (1, 1, 1), (50, 0, 20), torch.float32, (4, 2, 16), mask)


def test_long_cache_rows_are_addressed_in_64_bits() -> None:
    """A block table's int64 arithmetic: strides of a cache that is itself a slice."""
    kv = paged((20,), 2, 16, torch.float32, 16)
    both = torch.stack((kv.keys, kv.values), dim=1)
    sliced = kv._replace(keys=both[:, 0], values=both[:, 1])
    q = randn(1, 2, 16, seed=2)
    given = options(2, 16, {"causal": True})
    out = flash.paged_decode(q, sliced, cu_seqlens(1), given)
    assert torch.equal(out, flash.paged_decode(q, kv, cu_seqlens(1), given))

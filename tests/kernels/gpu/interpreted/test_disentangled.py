"""Disentangled attention over packed sequences."""

import pytest
import torch
from interpreted import DEVICE, DTYPES, assert_close, randn
from torch import Tensor

from atoll_kernels import reference
from atoll_kernels.disentangled import DistanceTables
from atoll_kernels.gpu import disentangled
from atoll_kernels.gpu.disentangled import disentangled_attention

# Tiles of the interpreter are 16 rows: one row, a tile's end, an empty sequence, several tiles.
LENGTHS = (1, 33, 0, 16, 18)


def tables_of(num_heads: int, head_dim: int, dtype: torch.dtype) -> DistanceTables:
    """Near distances have rows of their own, others share them; the farthest all have the last."""
    rows = [max(0, min(30, 15 - o if abs(o) < 8 else 15 - o // 2)) for o in range(-25, 26)]
    keys = randn(31, num_heads, head_dim, seed=2, dtype=dtype)
    queries = randn(31, num_heads, head_dim, seed=3, dtype=dtype)
    return DistanceTables(keys, queries, torch.tensor(rows, dtype=torch.int32, device=DEVICE))


def check(tensors: tuple[Tensor, ...], tables: DistanceTables, cu_seqlens: Tensor) -> None:
    wide = DistanceTables(*(None if x is None else x.double() for x in tables[:2]), tables.rows)
    expected = reference.disentangled_attention(
        *(x.double() for x in tensors), wide, cu_seqlens, 0.2
    )
    found = disentangled_attention(*tensors, tables, cu_seqlens, 0.2)
    assert found is not None
    assert_close(found, expected)


def packed(num_heads: int, head_dim: int, tokens: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    qkv = randn(tokens, 3 * num_heads, head_dim, seed=1, dtype=dtype)
    return qkv.split(num_heads, dim=1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_disentangled(dtype: torch.dtype) -> None:
    cu_seqlens = torch.tensor([0, *LENGTHS], device=DEVICE).cumsum(0).int()
    check(packed(2, 16, sum(LENGTHS), dtype), tables_of(2, 16, dtype), cu_seqlens)


@pytest.mark.parametrize("left_out", [["keys"], ["queries"], ["keys", "queries"]], ids=str)
def test_one_table_or_none(left_out: list[str]) -> None:
    tables = tables_of(1, 16, torch.float32)._replace(**dict.fromkeys(left_out))
    cu_seqlens = torch.tensor([0, 3, 23], device=DEVICE, dtype=torch.int32)
    check(packed(1, 16, 23, torch.float32), tables, cu_seqlens)


def test_a_few_heads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the memory of their products allows."""
    monkeypatch.setattr(disentangled, "_MAX_PRODUCTS", 2 * 9 * 31)
    cu_seqlens = torch.tensor([0, 9], device=DEVICE, dtype=torch.int32)
    check(packed(5, 16, 9, torch.float32), tables_of(5, 16, torch.float32), cu_seqlens)


@pytest.mark.parametrize("shape", [(1, 80), (3, 8)], ids=str)
def test_heads(shape: tuple[int, int]) -> None:
    cu_seqlens = torch.tensor([0, 19], device=DEVICE, dtype=torch.int32)
    check(packed(*shape, 19, torch.float32), tables_of(*shape, torch.float32), cu_seqlens)


def test_larger_heads_are_declined() -> None:
    tensors = packed(1, 256, 4, torch.float32)
    cu_seqlens = torch.tensor([0, 4], device=DEVICE, dtype=torch.int32)
    tables = tables_of(1, 256, torch.float32)
    assert disentangled_attention(*tensors, tables, cu_seqlens, 0.2) is None

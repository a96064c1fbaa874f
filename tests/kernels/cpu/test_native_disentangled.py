"""Native disentangled attention against its reference in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from native import LEVELS, native_level
from torch import Tensor

from atoll_kernels import reference
from atoll_kernels.cpu import attention
from atoll_kernels.disentangled import DistanceTables

TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2e-2}
# None, one token, less than a product's rows, two blocks of keys.
LENGTHS = [0, 1, 7, 33, 261]
# Rows by distance: one each, in steps (some of more than one row), and none for far keys.
TABLES = {
    "exact": [max(0, min(80, 40 - o)) for o in range(-60, 61)],
    "steps": [min(29, max(0, 3 * ((90 - o) // 18))) for o in range(-90, 91)],
    "wide": [300 - o for o in range(-270, 271)],
}


@pytest.fixture(params=LEVELS, ids=lambda level: level.name, autouse=True)
def _level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    native_level(request.param, monkeypatch)
    torch.manual_seed(0)
    yield


def packed(
    num_heads: int, head_dim: int, lengths: list[int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k and v as views of one projection, and where sequences begin."""
    qkv = torch.randn(sum(lengths), 3 * num_heads, head_dim).to(dtype)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    q, k, v = qkv.split(num_heads, dim=1)
    return q, k, v, bounds


def tables_of(name: str, num_heads: int, head_dim: int, dtype: torch.dtype) -> DistanceTables:
    rows = torch.tensor(TABLES[name], dtype=torch.int32)
    keys, queries = torch.randn(2, int(rows.max()) + 1, num_heads, head_dim).to(dtype)
    return DistanceTables(keys, queries, rows)


def check(tensors: tuple[Tensor, ...], tables: DistanceTables) -> None:
    q, k, v, bounds = tensors
    scale = (3 * q.shape[2]) ** -0.5
    out = attention.disentangled_attention(q, k, v, tables, bounds, scale)
    assert out is not None and out.dtype == q.dtype and out.is_contiguous()
    wide = DistanceTables(*(None if x is None else x.double() for x in tables[:2]), tables.rows)
    expected = reference.disentangled_attention(
        q.double(), k.double(), v.double(), wide, bounds, scale
    )
    assert (out.double() - expected).abs().max() <= TOLERANCE[q.dtype]


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("name", TABLES)
def test_disentangled(name: str, dtype: torch.dtype) -> None:
    for shape in ((2, 64), (3, 10)):
        check(packed(*shape, LENGTHS, dtype), tables_of(name, *shape, dtype))


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_one_table_or_none(dtype: torch.dtype) -> None:
    tensors, tables = packed(2, 20, LENGTHS, dtype), tables_of("steps", 2, 20, dtype)
    check(tensors, tables._replace(keys=None))
    check(tensors, tables._replace(queries=None))
    check(tensors, tables._replace(keys=None, queries=None))


def test_what_it_declines() -> None:
    *qkv, bounds = packed(2, 16, [5], torch.float32)
    tables = tables_of("exact", 2, 16, torch.float32)
    assert tables.keys is not None
    half, view = tables.keys.half(), tables.keys.transpose(0, 1).contiguous().transpose(0, 1)
    for keys in (half, view):
        given = tables._replace(keys=keys)
        assert attention.disentangled_attention(*qkv, given, bounds, 0.1) is None

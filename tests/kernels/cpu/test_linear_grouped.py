"""Native linear layers with 8- and 4-bit weights, exact in integers, in every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from native import LEVELS, native
from torch import Tensor

import atoll_kernels as kernels
from atoll_kernels.cpu import linear_grouped
from atoll_kernels.cpu.linear_int4 import quantize_groups
from atoll_kernels.cpu.linear_int8 import quantize_weight
from atoll_kernels.linear import PackedLinear

DTYPES = (torch.float32, torch.bfloat16)
EPS = {torch.float32: 3e-6, torch.bfloat16: 2**-8}
# (rows, out_features, in_features): tiles and blocks that are not full, more rows than a chunk.
SHAPES = (
    (0, 8, 64),
    (1, 33, 64),
    (5, 70, 192),
    (7, 1, 128),
    (33, 130, 64),
    (20, 64, 128),
    (200, 40, 256),
)


@pytest.fixture(params=LEVELS, ids=lambda level: level.name, autouse=True)
def _level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(linear_grouped, "library", lambda: native(request.param))
    torch.manual_seed(0)
    yield


def on_grid(rows: int, in_features: int, dtype: torch.dtype) -> Tensor:
    """Rows that bytes hold exactly: multiples of 1/8, the largest of each 32 being 127/8."""
    codes = torch.randint(-127, 128, (rows, in_features))
    codes[:, ::32] = 127
    return (codes / 8).to(dtype)


def packings(weight: Tensor, bias: Tensor | None) -> Iterator[tuple[PackedLinear, Tensor]]:
    """Packed layers, and the weights (float64) that they stand for."""
    codes, scales = quantize_weight(weight)
    yield linear_grouped.pack8(codes, scales, bias), codes.double() * scales[:, None].double()
    for size in (32, 64):
        codes, scales, zeros = quantize_groups(weight, size)
        levels = (codes.double() - 8).unflatten(1, (-1, size))
        dense = levels * scales[..., None].double() + zeros[..., None].double()
        yield linear_grouped.pack4(codes, scales, zeros, bias), dense.flatten(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_its_integers(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    rows, out_features, in_features = shape
    weight, bias = torch.randn(out_features, in_features) / in_features, torch.randn(out_features)
    x = on_grid(rows, in_features, dtype)
    for added in (None, bias):
        for packed, dense in packings(weight, added):
            sums = x.double() @ dense.t()
            sums = sums if added is None else sums + added.double()
            for activation in (None, "gelu", "gelu_new", "relu", "silu", "tanh"):
                act = kernels.ACTIVATIONS.get(activation or "", lambda v: v)
                found, wanted = linear_grouped.linear(x, packed, activation), act(sums)
                assert found.dtype == dtype and found.shape == wanted.shape
                assert bool(((found - wanted).abs() <= EPS[dtype] * (1 + sums.abs())).all())


@pytest.mark.parametrize("in_features", [1, 7, 65, 300])
def test_int8_of_any_width(in_features: int) -> None:
    x, weight = on_grid(9, in_features, torch.float32), torch.randn(20, in_features)
    codes, scales = quantize_weight(weight)
    found = linear_grouped.linear(x, linear_grouped.pack8(codes, scales, None), None)
    wanted = x.double() @ (codes.double() * scales[:, None]).t()
    assert bool(((found - wanted).abs() <= 3e-6 * (100 + wanted.abs())).all())


def test_a_large_value_costs_its_group_alone() -> None:
    """The other groups stay exact, which one scale for the row would not let them."""
    x, weight = on_grid(9, 256, torch.float32), torch.randn(48, 256)
    x[:, :128] = 0
    x[:, 3] = 4000
    codes, scales = quantize_weight(weight)
    found = linear_grouped.linear(x, linear_grouped.pack8(codes, scales, None), None)
    wanted = x.double() @ (codes.double() * scales[:, None]).t()
    assert bool(((found - wanted).abs() <= 3e-6 * (100 + wanted.abs())).all())


def test_other_layouts_dtypes_and_activations() -> None:
    codes, scales = quantize_weight(torch.randn(40, 64))
    packed = linear_grouped.pack8(codes, scales, None)
    x = on_grid(6, 200, torch.float32)[:, 64:128]
    wanted = linear_grouped.linear(x.contiguous(), packed, None)
    assert torch.equal(linear_grouped.linear(x, packed, None), wanted)
    half = linear_grouped.linear(x.half(), packed, None)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half, wanted.half())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_in_its_row(bad: float) -> None:
    weight = torch.randn(40, 64)
    x = on_grid(9, 64, torch.float32)
    for packed, _ in packings(weight, None):
        clean = linear_grouped.linear(x, packed, None)
        spoilt = x.clone()
        spoilt[4, 40] = bad
        found = linear_grouped.linear(spoilt, packed, None)
        assert not bool(torch.isfinite(found[4]).any())
        others = [row for row in range(9) if row != 4]
        assert torch.equal(found[others], clean[others])


def test_rows_of_zeros() -> None:
    for packed, _ in packings(torch.randn(40, 64), None):
        assert not bool(linear_grouped.linear(torch.zeros(9, 64), packed, None).any())

"""Native dense linear layers, against float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from native import LEVELS, native, native_level
from torch import Tensor

import atoll_kernels as kernels
from atoll_kernels.activation import ACTIVATIONS
from atoll_kernels.cpu import linear_native_dense
from atoll_kernels.cpu.native.build import Level

DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
SHAPES = [
    (1, 384, 100),
    (3, 30, 64),
    (65, 128, 33),
    (0, 8, 8),
    (130, 64, 48),
    (9, 31, 20),
    (45, 96, 17),
    # Around the most rows of an item; panels are cut among several too.
    (255, 64, 31),
    (256, 96, 65),
    (257, 128, 420),
    (513, 32, 34),
]


@pytest.fixture(params=LEVELS, ids=lambda level: level.name, autouse=True)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Level]:
    native_level(request.param, monkeypatch)
    torch.manual_seed(0)
    yield request.param


@pytest.mark.parametrize("activation", [None, "gelu", "silu", "relu", "gelu_new", "tanh"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float(shape: tuple[int, int, int], activation: str | None, level: Level) -> None:
    """Rows of a wider matrix, which begin at an odd element."""
    rows, width, outs = shape
    for dtype in DTYPES if native(level).has_bf16 and width % 2 == 0 else DTYPES[:1]:
        x = torch.randn(rows, width + 5).to(dtype)[:, 1 : width + 1]
        weight = (torch.randn(outs, width) / math.sqrt(width)).to(dtype)
        bias = torch.randn(outs).to(dtype) if activation != "relu" else None
        packed = linear_native_dense.pack_floats(weight, bias, native(level).width)
        out = packed.forward(x, activation)
        _close(out, _exact(x, weight, bias, activation), dtype)


@pytest.mark.parametrize("width", [64, 74])
def test_any_number_of_rows(width: int, level: Level) -> None:
    """However they are cut; 74 inputs are no whole number of tiles."""
    for dtype in DTYPES if native(level).has_bf16 else DTYPES[:1]:
        weight = (torch.randn(80, width) / math.sqrt(width)).to(dtype)
        bias, x = torch.randn(80).to(dtype), torch.randn(70, width).to(dtype)
        packed = linear_native_dense.pack_floats(weight, bias, native(level).width)
        wide = _exact(x, weight, bias, "gelu")
        for rows in range(1, 71):
            _close(packed.forward(x[:rows], "gelu"), wide[:rows], dtype)


@pytest.mark.parametrize("rows", [1, 3, 9, 64, 130])
@pytest.mark.parametrize("has_bias", [False, True])
def test_gated(rows: int, has_bias: bool, level: Level) -> None:
    library, width, in_features = native(level), 64, 74
    for dtype in DTYPES if library.has_bf16 else DTYPES[:1]:
        weight = (torch.randn(2 * width, in_features) / math.sqrt(in_features)).to(dtype)
        bias = torch.randn(2 * width).to(dtype) if has_bias else None
        packed = linear_native_dense.pack_floats(weight, bias, library.width)
        x = torch.randn(rows, in_features).to(dtype)
        gate, up = _exact(x, weight, bias, None).chunk(2, dim=1)
        for activation in ("gelu", "silu", "relu"):
            found = packed.gated(x, activation)
            if library.has_tiles:
                two = kernels.gated_activation(packed.forward(x), activation)
                assert torch.equal(found, two)
                continue
            assert found.dtype == dtype
            _close(found, ACTIVATIONS[activation](gate) * up, dtype)


def test_gates_that_share_panels_are_left_to_two_kernels(level: Level) -> None:
    library = native(level)
    packed = linear_native_dense.pack_floats(torch.randn(2 * 40 + 2, 16), None, library.width)
    x = torch.randn(3, 16)
    two = kernels.gated_activation(packed.forward(x), "silu")
    assert torch.equal(packed.gated(x, "silu"), two)


def test_gelu_of_extremes(level: Level) -> None:
    """Nothing overflows on the way, and what is no number stays none."""
    values = torch.tensor([0, 1e-30, 1, 5.9, 6.1, 40, 1e4, 3e38, math.inf, math.nan])
    x = torch.cat([values, -values])[:, None]
    packed = linear_native_dense.pack_floats(torch.ones(1, 1), None, native(level).width)
    wide = ACTIVATIONS["gelu"](x.double()).where(x != -math.inf, 0)
    found = packed.forward(x, "gelu").double()
    torch.testing.assert_close(found, wide, rtol=2e-6, atol=2e-7, equal_nan=True)


def _exact(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    wide = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
    return wide if activation is None else ACTIVATIONS[activation](wide)


def _close(out: Tensor, wide: Tensor, dtype: torch.dtype) -> None:
    assert out.dtype == dtype and out.shape == wide.shape
    error = (out.double() - wide).abs() / (1 + wide.abs())
    assert not error.numel() or float(error.max()) <= TOLERANCE[dtype]


def test_pack_takes_what_it_is_good_at(level: Level) -> None:
    library, weight = native(level), torch.randn(64, 32)
    wide, narrow = (
        linear_native_dense.pack(weight, None),
        linear_native_dense.pack(weight.bfloat16(), None),
    )
    assert (wide is not None) == (library.width == 16)
    assert (narrow is not None) == library.has_bf16
    assert linear_native_dense.pack(weight.bfloat16()[:, :31], None) is None
    assert linear_native_dense.pack(weight.half(), None) is None
    for chosen in (wide, narrow):
        if chosen is not None:
            x = torch.randn(2, 32)
            half = chosen.forward(x.half())
            assert half.dtype == torch.float16
            torch.testing.assert_close(half.float(), x @ weight.t(), rtol=0.05, atol=0.1)

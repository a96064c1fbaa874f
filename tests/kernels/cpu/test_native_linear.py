"""Native quantised linear layers, against float64 products of the same codes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from native import LEVELS, native, native_level
from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS
from atoll_kernels.cpu import linear_native
from atoll_kernels.cpu.linear_int8 import quantize_weight
from atoll_kernels.cpu.native.build import Level
from atoll_kernels.linear import PackedLinear

DTYPES = (torch.float32, torch.bfloat16)
# Codes are those of float64 but for ties; what remains is the rounding of the output.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
SHAPES = [(1, 384, 100), (3, 30, 64), (65, 128, 33), (0, 8, 8), (130, 64, 48)]


@pytest.fixture(params=LEVELS, ids=lambda level: level.name, autouse=True)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Level]:
    native_level(request.param, monkeypatch)
    torch.manual_seed(0)
    yield request.param


def int8(weight: Tensor, bias: Tensor | None, level: Level) -> tuple[PackedLinear, Tensor]:
    """The packed weight, and what its codes stand for in float64."""
    codes, scales = quantize_weight(weight)
    packed = linear_native.pack_codes(codes, scales, bias, native(level).width)
    return packed, codes.double() * scales.double().unsqueeze(1)


def rounded_rows(x: Tensor) -> Tensor:
    """What the kernel makes of x, in float64."""
    scale = x.float().abs().amax(1, keepdim=True).clamp_min(1e-30) / 127
    return (x.float() / scale).round().double() * scale.double()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", [None, "gelu", "silu", "relu", "gelu_new", "tanh"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8(
    shape: tuple[int, int, int], activation: str | None, dtype: torch.dtype, level: Level
) -> None:
    """Rows of a wider matrix; outputs and inputs that fill no vector."""
    rows, width, outs = shape
    x = torch.randn(rows, width + 5).to(dtype)[:, :width]
    bias = torch.randn(outs) if activation != "relu" else None
    packed, weight = int8(torch.randn(outs, width) / math.sqrt(width), bias, level)
    out = linear_native.linear(x, packed, activation)
    wide = rounded_rows(x) @ weight.t() + (0 if bias is None else bias.double())
    wide = wide if activation is None else ACTIVATIONS[activation](wide)
    assert out.dtype == dtype and out.shape == (rows, outs)
    # A code at a tie may round either way: one step of one input.
    step = 0 if rows == 0 else float(weight.abs().max() * x.float().abs().max() / 127)
    error = (out.double() - wide).abs() / (1 + wide.abs())
    assert not rows or float(error.max()) <= TOLERANCE[dtype] + step
    assert not rows or float(error.mean()) <= TOLERANCE[dtype]


def test_int8_is_close_to_float(level: Level) -> None:
    """And a row that is zero or not finite stays so, alone."""
    x, weight = torch.randn(40, 256), torch.randn(64, 256)
    packed, _ = int8(weight, None, level)
    out = linear_native.linear(x, packed, None)
    assert torch.nn.functional.cosine_similarity(out, x @ weight.t()).min() > 0.9995
    x[3], x[5, 7], x[6, 0] = 0, math.nan, math.inf
    spoilt = linear_native.linear(x, packed, None)
    assert bool((spoilt[3] == 0).all()) and bool(spoilt[[5, 6]].isnan().all())
    kept = [i for i in range(40) if i not in (3, 5, 6)]
    assert torch.equal(spoilt[kept], out[kept])


@pytest.mark.parametrize("activation", [None, "gelu", "silu", "relu", "gelu_new", "tanh"])
@pytest.mark.parametrize("shape", [*SHAPES, (9, 31, 20)], ids=str)
def test_float(shape: tuple[int, int, int], activation: str | None, level: Level) -> None:
    """Rows of a wider matrix, which begin at an odd element."""
    rows, width, outs = shape
    for dtype in DTYPES if native(level).has_bf16 and width % 2 == 0 else DTYPES[:1]:
        x = torch.randn(rows, width + 5).to(dtype)[:, 1 : width + 1]
        weight = (torch.randn(outs, width) / math.sqrt(width)).to(dtype)
        bias = torch.randn(outs).to(dtype) if activation != "relu" else None
        packed = linear_native.pack_floats(weight, bias, native(level).width)
        out = linear_native.linear(x, packed, activation)
        wide = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
        wide = wide if activation is None else ACTIVATIONS[activation](wide)
        assert out.dtype == dtype and out.shape == (rows, outs)
        error = (out.double() - wide).abs() / (1 + wide.abs())
        assert not rows or float(error.max()) <= TOLERANCE[dtype]


def test_pack_takes_what_it_is_good_at(level: Level) -> None:
    kernels = native(level)
    weight = torch.randn(64, 32)
    packed = linear_native.pack(weight, None, "int8")
    assert (packed is not None) == kernels.has_vnni
    assert (linear_native.pack(weight, None, "dense") is not None) == (kernels.width == 16)
    narrow = linear_native.pack(weight.bfloat16(), None, "dense")
    assert (narrow is not None) == kernels.has_bf16
    assert linear_native.pack(weight.bfloat16()[:, :31], None, "dense") is None
    assert linear_native.pack(weight.half(), None, "int8") is None
    for chosen in (packed, narrow):
        if chosen is not None:
            x = torch.randn(2, 32)
            half = linear_native.linear(x.half(), chosen, None)
            assert half.dtype == torch.float16
            torch.testing.assert_close(half.float(), x @ weight.t(), rtol=0.05, atol=0.1)

"""Native linear layers with MXFP4 weights against float64, in every instruction set."""

from __future__ import annotations

import pytest
import torch
from native import ALL, LEVELS, native
from torch import Tensor

import atoll_kernels as kernels
from atoll_kernels.cpu import linear_native_exact, linear_native_mxfp4
from atoll_kernels.cpu.native.build import Level, cpu_flags

DTYPES = (torch.float32, torch.bfloat16)
EPS = {torch.float32: 3e-6, torch.bfloat16: 2**-8}
# AVX2 has a lookup of its own.
AVX2 = [level for level in ALL if level.name == "avx2" and cpu_flags().issuperset(level.needs)]
# (rows, out_features, in_features): tiles and blocks that are not full, and more rows than a chunk.
SHAPES = ((0, 8, 32), (1, 33, 64), (5, 70, 192), (7, 1, 96), (12, 64, 320), (33, 130, 32),
          (110, 40, 576), (270, 8, 64))  # fmt: skip
VALUES = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


@pytest.fixture(params=[*LEVELS, *AVX2], ids=lambda level: level.name, autouse=True)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Level:
    found: Level = request.param
    for module in (linear_native_exact, linear_native_mxfp4):
        monkeypatch.setattr(module, "library", lambda: native(found))
    torch.manual_seed(0)
    return found


def weights(out_features: int, in_features: int) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks, scales, and the weights (float64) that they stand for."""
    codes = torch.randint(0, 16, (out_features, in_features))
    codes[0, :16] = torch.arange(16)
    scales = torch.randint(117, 123, (out_features, in_features // 32))
    values = torch.tensor([*VALUES, *(-x for x in VALUES)]).double()[codes]
    powers = 2.0 ** (scales - 127).double()
    blocks = (codes[:, ::2] + 16 * codes[:, 1::2]).view(out_features, -1, 16)
    dense = values * powers.repeat_interleave(32, 1)
    return blocks.to(torch.uint8), scales.to(torch.uint8), dense


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_its_weights(dtype: torch.dtype, shape: tuple[int, int, int], level: Level) -> None:
    """Also gated, and rows that begin at an odd element of a wider matrix."""
    rows, out_features, in_features = shape
    blocks, scales, dense = weights(out_features, in_features)
    x = torch.randn(rows, in_features + 3)[:, 1 : in_features + 1].to(dtype)
    for bias in (None, torch.randn(out_features)):
        packed = linear_native_mxfp4.pack(blocks, scales, bias)
        assert packed is not None and packed.scheme == "mxfp4"
        sums = x.double() @ dense.t() + (0 if bias is None else bias.double())
        for given in (x, x.contiguous()):
            found = packed.forward(given)
            assert found.dtype == dtype and found.shape == sums.shape
            assert bool(((found - sums).abs() <= EPS[dtype] * (1 + sums.abs())).all())
        silu = packed.forward(x, "silu")
        wanted = kernels.ACTIVATIONS["silu"](sums)
        assert bool(((silu - wanted).abs() <= EPS[dtype] * (1 + sums.abs())).all())


@pytest.mark.parametrize("rows", [1, 9, 20])
@pytest.mark.parametrize("width", [64, 33])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gated(dtype: torch.dtype, width: int, rows: int) -> None:
    """Halves that are whole blocks of outputs, and halves that share one."""
    blocks, scales, dense = weights(2 * width, 96)
    x, bias = 30 * torch.randn(rows, 96).to(dtype), torch.randn(2 * width)
    packed = linear_native_mxfp4.pack(blocks, scales, bias)
    assert packed is not None
    gate, up = (x.double() @ dense.t() + bias).chunk(2, 1)
    assert float(gate.max()) > 7 and float(up.abs().max()) > 7
    clamped, limited = gate.clamp(max=7), up.clamp(-7, 7) + 1
    wanted = limited * clamped / (1 + (-1.702 * clamped).exp())
    found = packed.gated(x, "gpt_oss")
    limit = 3 * EPS[dtype] * (1 + gate.abs()) * (1 + limited.abs())
    assert found.dtype == dtype and bool(((found - wanted).abs() <= limit).all())


def test_bytes_of_a_weight_and_its_other_dtypes() -> None:
    blocks, scales, dense = weights(96, 64)
    packed = linear_native_mxfp4.pack(blocks, scales, None)
    assert packed is not None
    assert 8 * sum(tensor.nbytes for tensor in packed.tensors) == 4.25 * dense.numel()
    x = torch.randn(3, 64)
    half = packed.forward(x.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), x.half().double() @ dense.t(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("rows", [9, 20])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_in_its_row(bad: float, rows: int) -> None:
    blocks, scales, _ = weights(40, 64)
    packed = linear_native_mxfp4.pack(blocks | 1, scales, None)
    assert packed is not None
    x = torch.randn(rows, 64)
    clean, spoilt = packed.forward(x), x.clone()
    spoilt[4, 40] = bad
    found = packed.forward(spoilt)
    others = [row for row in range(rows) if row != 4]
    assert not bool(torch.isfinite(found[4]).any()) and torch.equal(found[others], clean[others])


def test_the_smallest_and_the_largest_scale() -> None:
    """2^-127, which is subnormal itself, and 2^113."""
    blocks = torch.full((2, 1, 16), 0x77, dtype=torch.uint8)
    packed = linear_native_mxfp4.pack(blocks, torch.tensor([[0], [240]], dtype=torch.uint8), None)
    assert packed is not None
    x = torch.zeros(1, 32)
    x[0, 5] = 2.0
    assert packed.forward(x).tolist() == [[6 * 2.0**-126, 6 * 2.0**114]]

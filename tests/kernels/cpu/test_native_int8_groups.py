"""Native linear layers with 8-bit weights in groups against float64, in every instruction set."""

from __future__ import annotations

import pytest
import torch
from native import LEVELS, native
from torch import Tensor

import atoll_kernels as kernels
from atoll_kernels.cpu import linear_native_exact, linear_native_int8_groups
from atoll_kernels.cpu.native.build import Level

DTYPES = (torch.float32, torch.bfloat16)
EPS = {torch.float32: 3e-6, torch.bfloat16: 2**-8}
# (rows, out_features, in_features, group): tiles and blocks that are not full, rows beyond a chunk.
SHAPES = ((0, 8, 32, 32), (1, 33, 64, 16), (7, 1, 96, 32), (12, 64, 320, 16), (33, 130, 32, 32),
          (110, 40, 576, 32), (270, 8, 64, 16))  # fmt: skip


@pytest.fixture(params=LEVELS, ids=lambda level: level.name, autouse=True)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Level:
    found: Level = request.param
    for module in (linear_native_exact, linear_native_int8_groups):
        monkeypatch.setattr(module, "library", lambda: native(found))
    torch.manual_seed(0)
    return found


def weights(out_features: int, in_features: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales, and the weights (float64) that they stand for."""
    codes = torch.randint(-128, 128, (out_features, in_features), dtype=torch.int8)
    codes[0, :2] = torch.tensor([-128, 127])
    scales = torch.randn(out_features, in_features // group) / 128
    return codes, scales, codes.double() * scales.double().repeat_interleave(group, 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_its_weights(dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    """Also rows that begin at an odd element of a wider matrix."""
    rows, out_features, in_features, group = shape
    codes, scales, dense = weights(out_features, in_features, group)
    x = torch.randn(rows, in_features + 3)[:, 1 : in_features + 1].to(dtype)
    for bias in (None, torch.randn(out_features)):
        packed = linear_native_int8_groups.pack(codes, scales, bias)
        assert packed is not None and packed.scheme == "int8-groups"
        sums = x.double() @ dense.t() + (0 if bias is None else bias.double())
        # With tiles, weights are rounded to bfloat16.
        size = x.abs().double() @ dense.abs().t()
        for given in (x, x.contiguous()):
            found = packed.forward(given)
            assert found.dtype == dtype and found.shape == sums.shape
            assert bool(((found - sums).abs() <= EPS[dtype] * (1 + sums.abs() + size / 2)).all())
        silu = packed.forward(x, "silu")
        wanted = kernels.ACTIVATIONS["silu"](sums)
        limit = EPS[dtype] * (1 + sums.abs() + size / 2)
        assert bool(((silu - wanted).abs() <= limit).all())


@pytest.mark.parametrize("width", [64, 33])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gated(dtype: torch.dtype, width: int) -> None:
    """Halves that are whole blocks of outputs, and halves that share one."""
    codes, scales, dense = weights(2 * width, 96, 32)
    packed = linear_native_int8_groups.pack(codes, scales, None)
    assert packed is not None
    x = torch.randn(9, 96).to(dtype)
    gate, up = (x.double() @ dense.t()).chunk(2, 1)
    wanted = torch.nn.functional.silu(gate) * up
    limit = 3 * EPS[dtype] * (1 + gate.abs()) * (1 + up.abs())
    assert bool(((packed.gated(x, "silu") - wanted).abs() <= limit).all())


def test_bytes_of_a_weight_and_its_other_dtypes() -> None:
    codes, scales, dense = weights(96, 64, 32)
    packed = linear_native_int8_groups.pack(codes, scales, None)
    eights = scales.repeat_interleave(4, 1)
    assert packed is not None and linear_native_int8_groups.pack(codes, eights, None) is None
    assert 8 * sum(tensor.nbytes for tensor in packed.tensors) == 9 * dense.numel()
    x = torch.randn(3, 64)
    half = packed.forward(x.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), x.half().double() @ dense.t(), rtol=2e-3, atol=2e-3)
    plain = kernels.reference.pack_int8_groups(codes, scales, None, torch.float32)
    torch.testing.assert_close(plain.forward(x), packed.forward(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="no groups"):
        kernels.pack_int8_groups(codes, scales[:1], None, torch.float32)

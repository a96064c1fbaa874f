"""Native linear layers with 8- and 4-bit weights, exact in integers, in every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from native import LEVELS, native
from torch import Tensor

import atoll_kernels as kernels
from atoll_kernels.cpu import linear_native_quantized
from atoll_kernels.cpu.int4_groups import Groups, quantize, quantize_in_bytes
from atoll_kernels.cpu.native.build import Level
from atoll_kernels.linear import PackedLinear, quantize_int8

DTYPES = (torch.float32, torch.bfloat16)
EPS = {torch.float32: 3e-6, torch.bfloat16: 2**-8}
# (rows, out_features, in_features): tiles and blocks that are not full, more rows than a chunk, and
# more inputs than are dequantised at a time.
SHAPES = (
    (0, 8, 64),
    (1, 33, 64),
    (1, 40, 32),
    (5, 70, 192),
    (7, 1, 128),
    (11, 40, 96),
    (12, 33, 32),
    (33, 130, 64),
    (20, 64, 128),
    (40, 70, 608),
    # Groups of 96 inputs are one and a half rows of tiles: what followed them was added, too.
    (20, 40, 96),
    (33, 70, 576),
    (200, 40, 256),
    (300, 40, 64),
)
# As in linear_int4_amx.h: so many rows meet 4-bit weights as bfloat16 where the CPU has AMX.
LEAST_AMX_ROWS = 12


@pytest.fixture(params=LEVELS, ids=lambda level: level.name, autouse=True)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Level:
    found: Level = request.param
    monkeypatch.setattr(linear_native_quantized, "library", lambda: native(found))
    torch.manual_seed(0)
    return found


def on_grid(rows: int, in_features: int, dtype: torch.dtype) -> Tensor:
    """Rows that bytes hold exactly: multiples of 1/8, the largest of each 32 being 127/8."""
    codes = torch.randint(-127, 128, (rows, in_features))
    codes[:, ::32] = 127
    return (codes / 8).to(dtype)


def packings(weight: Tensor, bias: Tensor | None) -> Iterator[tuple[PackedLinear, Tensor]]:
    """Packed layers, and the weights (float64) that they stand for."""
    codes, scales = quantize_int8(weight)
    yield (
        linear_native_quantized.pack8(codes, scales, bias),
        codes.double() * scales[:, None].double(),
    )
    for size in (32, 64, 128):
        if weight.shape[1] % size == 0:
            for groups in (quantize(weight, size), quantize_in_bytes(weight, size)):
                yield linear_native_quantized.pack4(groups, bias), dense_of(groups, size)


def dense_of(groups: Groups, size: int) -> Tensor:
    """By the formula of ``int4_groups``, in float64."""
    scales, zeros = groups.scales.double(), groups.zeros.double()
    if groups.factors is not None:
        scales, zeros = scales * groups.factors[:, :1], zeros * groups.factors[:, 1:]
    levels = (groups.codes.double() - 8).unflatten(1, (-1, size))
    return (levels * scales[..., None] + zeros[..., None]).flatten(1)


def as_multiplied(dense: Tensor, packed: PackedLinear, rows: int, level: Level) -> Tensor:
    """What the kernel makes of the weights; ties between two bfloat16 go away from zero."""
    if level.name != "amx" or packed.scheme != "int4" or rows < LEAST_AMX_ROWS:
        return dense
    bits = dense.float().view(torch.int32) + 0x8000
    return (bits & ~0xFFFF).view(torch.float32).double()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_its_weights(dtype: torch.dtype, shape: tuple[int, int, int], level: Level) -> None:
    rows, out_features, in_features = shape
    weight, bias = torch.randn(out_features, in_features) / in_features, torch.randn(out_features)
    x = on_grid(rows, in_features, dtype)
    for added in (None, bias):
        for packed, dense in packings(weight, added):
            sums = x.double() @ as_multiplied(dense, packed, rows, level).t()
            sums = sums if added is None else sums + added.double()
            for activation in (None, "gelu", "gelu_new", "relu", "silu", "tanh"):
                act = kernels.ACTIVATIONS.get(activation or "", lambda v: v)
                found, wanted = packed.forward(x, activation), act(sums)
                assert found.dtype == dtype and found.shape == wanted.shape
                assert bool(((found - wanted).abs() <= EPS[dtype] * (1 + sums.abs())).all())


@pytest.mark.parametrize("shape", [(1, 64, 64), (7, 192, 96), (33, 128, 192), (200, 64, 608)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gated(dtype: torch.dtype, shape: tuple[int, int, int], level: Level) -> None:
    rows, width, in_features = shape
    weight = torch.randn(2 * width, in_features) / in_features
    x, bias = on_grid(rows, in_features, dtype), torch.randn(2 * width)
    for added in (None, bias):
        for packed, dense in packings(weight, added):
            sums = x.double() @ dense.t() + (0 if added is None else added.double())
            gate, up = sums.chunk(2, dim=1)
            for activation in ("gelu", "silu", "relu"):
                found = packed.gated(x, activation)
                if level.name == "amx":
                    two = kernels.gated_activation(packed.forward(x), activation)
                    assert torch.equal(found, two)
                    continue
                wanted = kernels.ACTIVATIONS[activation](gate) * up
                assert found.dtype == dtype and found.shape == wanted.shape
                limit = EPS[dtype] * (1 + gate.abs()) * (1 + up.abs())
                assert bool(((found - wanted).abs() <= limit).all())


def test_gates_that_share_a_block_of_outputs_are_left_to_two_kernels() -> None:
    x, weight = torch.randn(3, 64), torch.randn(2 * 33, 64)
    packed = linear_native_quantized.pack8(*quantize_int8(weight), None)
    found = kernels.gated_linear(x, packed, "silu")
    assert torch.equal(found, kernels.gated_activation(kernels.linear(x, packed), "silu"))


@pytest.mark.parametrize("in_features", [32, 576])
def test_bytes_of_a_weight(in_features: int) -> None:
    """4 bits, two bytes for each group of 32, and two bfloat16 for each output."""
    weight = torch.randn(96, in_features)
    packed = linear_native_quantized.pack4(quantize_in_bytes(weight, 32), None)
    bits = 8 * sum(tensor.nbytes for tensor in packed.tensors)
    assert bits == 4.5 * weight.numel() + 32 * 96
    own = linear_native_quantized.pack_int4(weight, None, 32)
    assert (own is not None) == linear_native_quantized.is_fast()
    if own is not None:
        assert [tensor.nbytes for tensor in own.tensors] == [t.nbytes for t in packed.tensors]


@pytest.mark.parametrize("in_features", [1, 7, 65, 300])
def test_int8_of_any_width(in_features: int) -> None:
    x, weight = on_grid(9, in_features, torch.float32), torch.randn(20, in_features)
    codes, scales = quantize_int8(weight)
    found = linear_native_quantized.pack8(codes, scales, None).forward(x)
    wanted = x.double() @ (codes.double() * scales[:, None]).t()
    assert bool(((found - wanted).abs() <= 3e-6 * (100 + wanted.abs())).all())


def test_a_large_value_costs_its_group_alone() -> None:
    """The other groups stay exact, which one scale for the row would not let them."""
    x, weight = on_grid(9, 512, torch.float32), torch.randn(48, 512)
    x[:, :256] = 0
    x[:, 3] = 4000
    codes, scales = quantize_int8(weight)
    found = linear_native_quantized.pack8(codes, scales, None).forward(x)
    wanted = x.double() @ (codes.double() * scales[:, None]).t()
    assert bool(((found - wanted).abs() <= 3e-6 * (100 + wanted.abs())).all())


def test_other_layouts_dtypes_and_activations() -> None:
    codes, scales = quantize_int8(torch.randn(40, 64))
    packed = linear_native_quantized.pack8(codes, scales, None)
    x = on_grid(6, 200, torch.float32)[:, 64:128]
    wanted = packed.forward(x.contiguous())
    assert torch.equal(packed.forward(x), wanted)
    half = packed.forward(x.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half, wanted.half())


@pytest.mark.parametrize("distance", [200, 201])
def test_rows_inside_of_others(distance: int) -> None:
    x = on_grid(20, distance, torch.bfloat16)[:, 64:128]
    for packed, _ in packings(torch.randn(40, 64), None):
        wanted = packed.forward(x.contiguous())
        assert torch.equal(packed.forward(x), wanted)


@pytest.mark.parametrize("rows", [9, 20])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_in_its_row(bad: float, rows: int) -> None:
    weight = torch.randn(40, 64)
    x = on_grid(rows, 64, torch.float32)
    for packed, _ in packings(weight, None):
        clean = packed.forward(x)
        spoilt = x.clone()
        spoilt[4, 40] = bad
        found = packed.forward(spoilt)
        assert not bool(torch.isfinite(found[4]).any())
        others = [row for row in range(rows) if row != 4]
        assert torch.equal(found[others], clean[others])


def test_rows_of_zeros() -> None:
    for packed, _ in packings(torch.randn(40, 64), None):
        for rows in (9, 20):
            assert not bool(packed.forward(torch.zeros(rows, 64)).any())

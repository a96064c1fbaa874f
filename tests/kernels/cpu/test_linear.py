"""Linear layers without native kernels, against float64 and against their own integers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import atoll_kernels as kernels
from atoll_kernels import dispatch
from atoll_kernels.backends import KernelPolicy
from atoll_kernels.cpu import (
    int4_groups,
    linear_native_dense,
    linear_onednn,
    linear_onednn_int8,
    linear_torch_int4,
)
from atoll_kernels.linear import quantize_int8
from atoll_kernels.reference.linear import TorchDense, TorchInt8

ROWS = (0, 1, 3, 8, 33, 512)
SHAPES = ((1, 1), (33, 17), (130, 70), (96, 384))
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
REFERENCES: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    **kernels.ACTIVATIONS,
}
# Of one rounding of the result; the sums themselves are kept in float32.
EPS = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}


@pytest.fixture(autouse=True)
def _no_native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a compiler."""
    monkeypatch.setattr(linear_native_dense, "library", lambda: None)


def _layer(out_features: int, in_features: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(out_features * 1000 + in_features)
    weight = torch.randn(out_features, in_features, generator=generator) * in_features**-0.5
    return weight.to(dtype), torch.randn(out_features, generator=generator).to(dtype)


def _rows(num_rows: int, in_features: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(num_rows)
    return torch.randn(num_rows, in_features, generator=generator).to(dtype)


def _exact(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    out = x.double() @ weight.double().t()
    return REFERENCES[activation](out if bias is None else out + bias.double())


def _slope(activation: str | None, sums: Tensor) -> Tensor:
    """How much larger an error of a sum is after the activation: ReLU's square is steep."""
    x = sums.clone().requires_grad_()
    (slope,) = torch.autograd.grad(REFERENCES[activation](x).sum(), x)
    return slope.abs().clamp(min=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dense(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    weight, bias = _layer(*shape, dtype)
    for added in (None, bias):
        packed = kernels.pack_linear(weight, added)
        assert isinstance(packed, linear_onednn.OneDnnDense)
        for num_rows in ROWS:
            x = _rows(num_rows, shape[1], dtype)
            for activation in REFERENCES if num_rows in (0, 3, 33) else (None,):
                found = kernels.linear(x, packed, activation)
                wanted = _exact(x, weight, added, activation)
                assert found.dtype == dtype and found.shape == wanted.shape
                # The product is rounded, too, if oneDNN does not have the activation.
                is_fused = kernels.activation.BY_NAME[activation] in linear_onednn._POST_OPS
                slope = _slope(activation, _exact(x, weight, added, None))
                tolerance = EPS[dtype] * (1 + wanted.abs()) * (1 if is_fused else 1 + slope)
                assert bool(((found.double() - wanted).abs() <= tolerance).all())


def test_weights_and_rows_that_are_not_contiguous() -> None:
    weight, bias = _layer(96, 70, torch.float32)
    packed = kernels.pack_linear(weight.t().contiguous().t(), bias)
    x = _rows(9, 200)[:, 100:170]
    torch.testing.assert_close(
        kernels.linear(x, packed), torch.nn.functional.linear(x, weight, bias)
    )


def test_the_source_may_be_overwritten() -> None:
    weight, bias = _layer(64, 64, torch.float32)
    wanted = torch.nn.functional.linear(_rows(3, 64), weight, bias)
    packed = kernels.pack_linear(weight, bias)
    weight.zero_()
    bias.zero_()
    torch.testing.assert_close(kernels.linear(_rows(3, 64), packed), wanted)


def test_without_onednn_torch_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    weight, bias = _layer(33, 17, torch.float32)
    packed = kernels.pack_linear(weight, bias)
    assert isinstance(packed, TorchDense)
    torch.testing.assert_close(
        kernels.linear(_rows(3, 17), packed, "gelu"),
        _exact(_rows(3, 17), weight, bias, "gelu").float(),
    )


def _close(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    """Within one rounding to ``dtype``, relative to the largest values of the sums."""
    assert found.dtype == dtype and found.shape == wanted.shape
    scale = float(wanted.abs().max()) + 1 if wanted.numel() else 1
    assert bool(((found.double() - wanted).abs() <= EPS[dtype] * scale).all())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_int8_is_exact_in_its_integers(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    weight, bias = _layer(*shape, dtype)
    codes, scales = quantize_int8(weight)
    for added in (None, bias):
        packed = linear_onednn_int8.pack(weight, added)
        assert packed is not None
        for num_rows in ROWS:
            x = _rows(num_rows, shape[1], dtype)
            rows, row_scales = linear_onednn_int8.quantize_rows(x, 127)
            products = (rows.double() - 128) @ codes.double().t()
            sums = products * row_scales.double() * scales.double()
            sums = sums if added is None else sums + added.double()
            for activation in REFERENCES if num_rows in (0, 3, 33) else (None,):
                found = kernels.linear(x, packed, activation)
                _close(found, REFERENCES[activation](sums), dtype)


def test_int8_quantisation_is_within_half_a_step() -> None:
    weight, x = _layer(33, 70, torch.float32)[0], _rows(9, 70)
    x[4] = 0
    codes, scales = quantize_int8(weight)
    assert bool(((codes * scales[:, None] - weight).abs() <= scales[:, None] * 0.50001).all())
    rows, row_scales = linear_onednn_int8.quantize_rows(x, 127)
    found = (rows.float() - 128) * row_scales
    assert bool(((found - x).abs() <= row_scales * 0.50001).all())
    assert rows.min() == 1 and rows.max() == 255 and not found[4].any()


def test_int8_without_vnni_cannot_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two products of the largest codes fit into 16 bits, which AVX2 adds them in."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    weight, _ = _layer(33, 70, torch.float32)
    packed = linear_onednn_int8.pack(weight, None)
    assert packed is not None
    rows, _ = linear_onednn_int8.quantize_rows(_rows(9, 70), packed.levels)
    assert int(rows.max()) * 127 * 2 < 2**15
    found, wanted = kernels.linear(_rows(9, 70), packed), _rows(9, 70) @ weight.t()
    assert float((found - wanted).abs().max()) < 0.1


@pytest.mark.parametrize(
    ("shape", "group_size"), [((16, 64), 32), ((80, 192), 64), ((48, 256), 128)]
)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_int4_is_its_codes(dtype: torch.dtype, shape: tuple[int, int], group_size: int) -> None:
    weight, bias = _layer(*shape, dtype)
    codes, scales, zeros, *_ = int4_groups.quantize(weight, group_size)
    levels = (codes.int() - 8).unflatten(1, (-1, group_size))
    dense = (levels * scales.to(dtype)[..., None] + zeros.to(dtype)[..., None].double()).flatten(1)
    for added in (None, bias):
        packed = linear_torch_int4.pack(weight, added, group_size)
        assert packed is not None
        for num_rows in ROWS:
            x = _rows(num_rows, shape[1], dtype)
            sums = x.double() @ dense.double().t()
            sums = sums if added is None else sums + added.double()
            for activation in REFERENCES if num_rows in (0, 3, 33) else (None,):
                found = kernels.linear(x, packed, activation)
                # The sum, the bias and the activation are rounded in turn.
                assert found.dtype == dtype
                wanted = REFERENCES[activation](sums)
                scale = float(sums.abs().max()) + 1 if sums.numel() else 1
                tolerance = 3 * EPS[dtype] * scale * _slope(activation, sums)
                assert bool(((found.double() - wanted).abs() <= tolerance).all())


@pytest.mark.parametrize("shape", [(64, 70), (1, 1)])
def test_shapes_that_4_bits_do_not_take_get_8(shape: tuple[int, int]) -> None:
    assert kernels.pack_linear(*_layer(*shape, torch.float32), "int4").scheme == "int8"


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("group_size", "is_kept"), [(32, True), (128, True), (16, False)])
def test_codes_of_a_checkpoint(group_size: int, is_kept: bool, act_order: bool) -> None:
    generator = torch.Generator().manual_seed(group_size)
    codes = torch.randint(0, 16, (128, 48), generator=generator, dtype=torch.int32)
    num_groups = 128 // group_size
    zeros = torch.randint(0, 17, (num_groups, 48), generator=generator)
    scales = torch.rand(num_groups, 48, generator=generator).half()
    groups = torch.arange(128) // group_size
    if act_order:
        groups = groups[torch.randperm(128, generator=generator)]
    bias = torch.randn(48, generator=generator)
    packed = kernels.pack_int4(codes, zeros, scales, groups, bias, torch.float32)
    assert isinstance(packed, linear_torch_int4.TorchInt4) == is_kept
    weight = scales.double()[groups] * (codes - zeros[groups])
    x = _rows(5, 128)
    wanted = x.double() @ weight + bias.double()
    _close(kernels.linear(x, packed), wanted, torch.float32)
    narrow = kernels.pack_int4(codes, zeros, scales, groups, bias, torch.bfloat16)
    assert (narrow.scheme == "int4") == is_kept
    for num_rows in (5, 20):
        x = _rows(num_rows, 128).bfloat16()
        found = kernels.linear(x, narrow).double()
        wanted = x.double() @ weight + bias.double()
        assert float((found - wanted).norm() / wanted.norm()) < 0.01


@pytest.mark.parametrize("scheme", ["dense", "int8", "int4"])
def test_custom_kernels_disabled(scheme: str) -> None:
    weight, bias = _layer(64, 96, torch.float32)
    dispatch.configure(KernelPolicy(disable_custom_kernels=True))
    try:
        packed = kernels.pack_linear(weight, bias, scheme)
        found = kernels.linear(_rows(9, 96), packed, "gelu")
    finally:
        dispatch.configure(KernelPolicy(disable_custom_kernels=False))
    assert isinstance(packed, TorchDense if scheme == "dense" else TorchInt8)
    wanted = _exact(_rows(9, 96), weight, bias, "gelu")
    assert float((found - wanted).abs().max()) < (1e-5 if scheme == "dense" else 0.05)

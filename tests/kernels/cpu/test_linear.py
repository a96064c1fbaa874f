"""Packed linear layers on CPU, against float64 and against their own integers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import atoll_kernels as kernels
from atoll_kernels.cpu import linear_float

ROWS = (0, 1, 3, 8, 33, 512)
SHAPES = ((1, 1), (33, 17), (130, 70), (96, 384))
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
REFERENCES: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    **kernels.ACTIVATIONS,
}
# Of one rounding of the result; the sums themselves are kept in float32.
EPS = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}


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


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dense(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    weight, bias = _layer(*shape, dtype)
    for added in (None, bias):
        packed = kernels.pack_linear(weight, added)
        assert packed.layout == linear_float.LAYOUT
        for num_rows in ROWS:
            x = _rows(num_rows, shape[1], dtype)
            for activation in REFERENCES if num_rows in (0, 3, 33) else (None,):
                found = kernels.linear(x, packed, activation)
                wanted = _exact(x, weight, added, activation)
                assert found.dtype == dtype and found.shape == wanted.shape
                tolerance = EPS[dtype] * (1 + wanted.abs())
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
    assert packed.layout == "torch"
    torch.testing.assert_close(
        kernels.linear(_rows(3, 17), packed, "gelu"),
        _exact(_rows(3, 17), weight, bias, "gelu").float(),
    )

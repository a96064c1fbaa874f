"""4-bit weights: how near their codes come, and what happens to groups that are not ordinary."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from atoll_kernels.cpu.int4_groups import Groups, quantize, quantize_in_bytes

FORMS = (quantize, quantize_in_bytes)
SIZE = 32


def error(groups: Groups, weight: Tensor) -> Tensor:
    """Squares (outputs, groups), by the formula of the module in float64."""
    scales, zeros = groups.scales.double(), groups.zeros.double()
    if groups.factors is not None:
        scales, zeros = scales * groups.factors[:, :1], zeros * groups.factors[:, 1:]
    levels = (groups.codes.double() - 8).unflatten(1, (-1, SIZE))
    found = levels * scales[..., None] + zeros[..., None]
    return (found - weight.double().unflatten(1, (-1, SIZE))).square().sum(2)


def plain_error(weight: Tensor) -> Tensor:
    """Of 16 levels from the least to the largest weight of each group, in floats."""
    values = weight.double().unflatten(1, (-1, SIZE))
    low, high = values.aminmax(dim=2, keepdim=True)
    step = (high - low) / 15
    return (((values - low) / step).round() * step + low - values).square().sum(2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_better_than_levels_over_the_range(
    form: Callable[[Tensor, int], Groups], dtype: torch.dtype
) -> None:
    """By least squares, which make up for bytes too."""
    weight = (torch.randn(300, 256) * 0.02).to(dtype)
    weight[:, 5] *= 6
    found = form(weight, SIZE)
    assert float(error(found, weight).sum()) < 0.91 * float(plain_error(weight.float()).sum())
    assert found.codes.dtype == torch.uint8 and int(found.codes.max()) == 15


def test_bytes_use_their_range() -> None:
    codes, scales, zeros, factors, _ = quantize_in_bytes(torch.randn(100, 256) + 0.3, SIZE)
    assert scales.dtype == torch.uint8 and zeros.dtype == torch.int8
    assert factors is not None and factors.dtype == torch.bfloat16
    assert codes.shape == (100, 256) and scales.shape == zeros.shape == (100, 8)
    assert int(scales.min()) >= 1 and int(scales.amax(1).min()) > 180
    assert int(zeros.int().abs().amax(1).min()) > 90


def test_weights_on_a_grid_stay_there() -> None:
    """Those of a checkpoint in 4 bits: exactly in bfloat16, to a small part of a step in bytes."""
    steps = 2.0 ** torch.randint(-6, -3, (16, 4))
    codes = torch.randint(0, 16, (16, 4, SIZE))
    codes[..., 0], codes[..., 1] = 0, 15
    grid = ((codes - 8) * steps[..., None]).flatten(1)
    assert float(error(quantize(grid, SIZE), grid).sum()) == 0
    in_steps = (error(quantize_in_bytes(grid, SIZE), grid) / SIZE).sqrt() / steps
    assert float(in_steps.max()) < 0.1


@pytest.mark.parametrize("value", [0.0, 0.7, -3e-4, 1e4])
def test_rows_of_one_value(value: float) -> None:
    weight = torch.full((3, 128), value)
    for form, part in ((quantize, 2**-8), (quantize_in_bytes, 1 / 3000)):
        worst = float(error(form(weight, SIZE), weight).max() / SIZE) ** 0.5
        assert worst <= abs(value) * part


def test_a_large_weight_costs_its_group_alone() -> None:
    """Bytes leave fewer steps to the scales of the other groups; least squares make up for it."""
    weight = torch.randn(64, 256)
    weight[:, 3] = 40
    found, plain = error(quantize_in_bytes(weight, SIZE), weight), plain_error(weight)
    assert float(found[:, 1:].sum()) < 1.05 * float(plain[:, 1:].sum())


def test_more_outputs_than_a_slice() -> None:
    weight = torch.randn(8200, 256)
    for form in FORMS:
        whole, end = form(weight, SIZE), form(weight[8192:], SIZE)
        for found, wanted in zip(whole, end, strict=True):
            assert (found is None) == (wanted is None)
            assert found is None or wanted is None or torch.equal(found[8192:], wanted)

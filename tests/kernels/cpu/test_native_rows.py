"""Native norms, activations, rope and the store in the cache, against float64 and float32."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from native import LEVELS, native_level
from torch import Tensor

from atoll_kernels import reference
from atoll_kernels.cpu import activation, gates, norm, rope

DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


@pytest.fixture(params=LEVELS, ids=lambda level: level.name, autouse=True)
def _level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    native_level(request.param, monkeypatch)
    torch.manual_seed(0)
    yield


def close(out: Tensor | None, wide: Tensor, dtype: torch.dtype) -> None:
    """``out`` has ``dtype`` and equals float64 values to the dtype's tolerance."""
    assert out is not None and out.dtype == dtype
    error = (out.double() - wide).abs() / (1 + wide.abs())
    assert error.max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 7, 64, 384, 1000])
@pytest.mark.parametrize("has_residual", [False, True])
def test_norms(width: int, has_residual: bool, dtype: torch.dtype) -> None:
    """Rows of a wider matrix, far from zero: one pass over squares would lose the variance."""
    rows = (torch.randn(9, width + 3) * 2 + 10).to(dtype)[:, :width]
    residual = torch.randn(9, width).to(dtype) if has_residual else None
    weight, bias = torch.randn(width).to(dtype), torch.randn(width).to(dtype)
    total = rows if residual is None else rows + residual
    wide = total.double()
    out = norm.layer_norm(rows, weight, bias, 1e-5, residual)
    assert out is not None and torch.equal(out[1], total)
    shape = (width,)
    close(
        out[0],
        torch.nn.functional.layer_norm(wide, shape, weight.double(), bias.double(), 1e-5),
        dtype,
    )
    plain = norm.layer_norm(rows, None, None, 1e-5, residual)
    assert plain is not None
    close(plain[0], torch.nn.functional.layer_norm(wide, shape, eps=1e-5), dtype)
    scaled = norm.rms_norm(rows, weight, 1e-5, residual)
    assert scaled is not None and torch.equal(scaled[1], total)
    inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
    close(scaled[0], wide * inverse * weight.double(), dtype)
    centred = 1 + weight.float() / 512  # more bits than bfloat16 has
    exact = norm.rms_norm(rows, centred, 1e-5, residual)
    assert exact is not None and exact[0].dtype == dtype
    rounding = 2e-6 if dtype == torch.float32 else 1.01 * 2**-8  # once, to x's dtype
    torch.testing.assert_close(exact[0].double(), wide * inverse * centred, rtol=rounding, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 7, 48, 200])
def test_grouped_norms(size: int, dtype: torch.dtype) -> None:
    """Without a gate, and with one before the norm or after it; scales of all groups or of one."""
    wide = torch.randn(9, 8 * size).to(dtype)
    x, gate = wide[:, : 3 * size], wide[:, 4 * size : 7 * size]
    for weight in (torch.randn(3 * size), torch.randn(size).to(dtype)):
        for given, is_first in ((None, False), (gate, True), (gate, False)):
            found = norm.grouped_rms_norm(x, weight, 1e-5, size, given, is_first)
            expected = reference.grouped_rms_norm(
                x.double(), weight.double(), 1e-5, size,
                None if given is None else given.double(), is_first,
            )  # fmt: skip
            assert found is not None and found.is_contiguous()
            close(found, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gates(dtype: torch.dtype) -> None:
    """Softplus from tiny values to large ones; parts of wider rows."""
    wide = torch.linspace(-60, 40, 7 * 46).view(46, 7).T.contiguous().to(dtype)
    (a, b), bias, rate = wide.chunk(2, 1), torch.randn(23), -torch.rand(23)
    for limits in ((0.0, math.inf), (0.001, 0.1)):
        for given in (bias, None):
            found = gates.time_steps(a, given, limits)
            double = None if given is None else given.double()
            assert found is not None and found.dtype == torch.float32
            expected = reference.time_steps(a.double(), double, limits)
            torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-12)
    decays = gates.delta_gates(a, b, rate, bias)
    assert decays is not None
    wanted = reference.delta_gates(a.double(), b.double(), rate.double(), bias.double())
    for one, other in zip(decays, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-6, atol=1e-12)
    spoilt = gates.time_steps(torch.full((1, 3), math.nan, dtype=dtype), None, (0.0, 1.0))
    assert spoilt is not None and bool(spoilt.isnan().all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gated_rows(dtype: torch.dtype) -> None:
    x, gate = torch.randn(5, 60).to(dtype).split((30, 30), 1)
    for kind in ("silu", None):
        found = activation.gate_rows(x, gate, kind)
        close(found, reference.gate_rows(x.double(), gate.double(), kind), dtype)
    assert activation.gate_rows(x, gate.double(), "silu") is None


def test_many_rows_use_threads() -> None:
    x, weight = torch.randn(500, 384), torch.randn(384)
    out = norm.rms_norm(x, weight, 1e-5, x)
    assert out is not None
    torch.testing.assert_close(out[0], reference.rms_norm(x, weight, 1e-5, x)[0])
    gated = activation.gated_activation(x, "silu")
    torch.testing.assert_close(gated, reference.gated_activation(x, "silu"))


def test_no_rows_and_nan() -> None:
    weight = torch.ones(8)
    empty = norm.rms_norm(torch.empty(0, 8), weight, 1e-5, None)
    assert empty is not None and empty[0].shape == (0, 8)
    spoilt = norm.layer_norm(torch.full((1, 8), math.nan), weight, None, 1e-5, None)
    assert spoilt is not None and bool(spoilt[0].isnan().all())
    for name in ("gelu", "gelu_new", "silu", "relu", "quick_gelu"):
        out = activation.activate(torch.full((1, 20), math.nan), name)
        assert out is not None and bool(out.isnan().all()), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["gelu", "gelu_new", "silu", "relu", "tanh", "quick_gelu"])
def test_activations(name: str, dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-100, 100, 1001), torch.linspace(-6, 6, 2001)])[:3000]
    x = x.to(dtype).view(4, 750)
    close(activation.activate(x, name), reference.activate(x.double(), name), dtype)
    narrow = x[:, :374]
    wide = reference.gated_activation(narrow.double(), name)
    out = activation.gated_activation(narrow, name)
    close(out, wide, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_gated_unit_of_gpt_oss(dtype: torch.dtype) -> None:
    """Both halves are clamped, and NaN stays NaN; the gate alone is no activation."""
    x = torch.linspace(-20, 20, 1480).to(dtype).view(4, 370)[:, torch.randperm(370)]
    x[1, 3], x[2, 200] = math.nan, math.nan
    out = activation.gated_activation(x, "gpt_oss")
    assert out is not None and bool(out[1, 3].isnan()) and bool(out[2, 200 - 185].isnan())
    close(out.nan_to_num(), reference.gated_activation(x.double(), "gpt_oss").nan_to_num(), dtype)
    assert activation.activate(x, "gpt_oss") is None


def test_an_unknown_activation_is_left_to_torch() -> None:
    assert activation.activate(torch.ones(1, 4), "softplus") is None
    assert activation.gated_activation(torch.ones(1, 4, dtype=torch.float16), "silu") is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("head_dim", "rotated"), [(64, 64), (80, 20), (10, 6)])
def test_rope_and_the_cache(head_dim: int, rotated: int, dtype: torch.dtype) -> None:
    """Views of a fused projection; one kernel equals the three steps; -1 stores nothing."""
    qkv = torch.randn(7, 6 + 2 + 2, head_dim).to(dtype)
    mine = qkv.clone()
    q, k, v = mine.split([6, 2, 2], dim=1)
    angles = torch.outer(torch.arange(50.0), torch.rand(rotated // 2))
    cos, sin = angles.cos(), angles.sin()
    positions, slots = torch.tensor([3, 0, 49, 7, 7, 1, 2]), torch.tensor([5, -1, 0, 11, 3, 2, 1])
    caches = torch.zeros(2, 3, 4, 2, head_dim, dtype=dtype)
    assert rope.rope_write_kv(q, k, v, positions, cos, sin, caches[0], caches[1], slots)

    heads = qkv[:, :8].double()
    reference.apply_rope(heads, positions, cos.double(), sin.double())
    close(mine[:, :8], heads, dtype)
    assert torch.equal(mine[:, 8:], qkv[:, 8:])
    for cache, rows in zip(caches, (k, v), strict=True):
        flat = cache.view(12, 2, head_dim)
        kept = slots >= 0
        assert torch.equal(flat[slots[kept]], rows[kept])
        assert int(flat.flatten(1).any(1).sum()) == 6

    alone, stored = qkv.clone(), torch.zeros_like(caches)
    q2, k2, v2 = alone.split([6, 2, 2], dim=1)
    assert rope.apply_rope(q2, positions, cos, sin) is q2
    rope.apply_rope(k2, positions, cos, sin)
    assert rope.write_kv(k2, v2, stored[0], stored[1], slots)
    assert torch.equal(alone, mine)
    assert torch.equal(caches, stored)

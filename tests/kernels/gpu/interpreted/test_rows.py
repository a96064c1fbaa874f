"""Kernels that treat every token alone: norms, activations, rotary embedding, the KV write."""

import math

import pytest
import torch
from interpreted import DEVICE, DTYPES, assert_close, check, randn
from torch import Tensor

from atoll_kernels import reference
from atoll_kernels.activation import ACTIVATIONS
from atoll_kernels.gpu import activation, gates, norm, rope

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@each_dtype
@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("affine", ["weight", "both", "none"])
@pytest.mark.parametrize("hidden", [48, 129])
def test_layer_norm(dtype: torch.dtype, has_residual: bool, affine: str, hidden: int) -> None:
    x = 3 * randn(3, hidden, seed=1, dtype=dtype) + 1
    residual = randn(3, hidden, seed=2, dtype=dtype) if has_residual else None
    weight = None if affine == "none" else randn(hidden, seed=3, dtype=dtype)
    bias = randn(hidden, seed=4, dtype=dtype) if affine == "both" else None
    found = norm.layer_norm(x, weight, bias, 1e-5, residual)
    assert found is not None
    _compare(found, reference.layer_norm(*_double(x, weight, bias), 1e-5, *_double(residual)))
    assert has_residual or found[1] is x


@each_dtype
@pytest.mark.parametrize("size", [48, 21])
def test_grouped_rms_norm(dtype: torch.dtype, size: int) -> None:
    wide = randn(3, 7 * size, seed=1, dtype=dtype)
    x, gate = wide[:, : 3 * size], wide[:, 4 * size :]
    for weight in (randn(3 * size, seed=2), randn(size, seed=3, dtype=dtype)):
        for given, is_first in ((None, False), (gate, True), (gate, False)):
            found = norm.grouped_rms_norm(x, weight, 1e-5, size, given, is_first)
            assert found is not None and found.dtype == dtype
            doubles = [None if t is None else t.double() for t in (x, weight, given)]
            expected = reference.grouped_rms_norm(
                doubles[0],
                doubles[1],
                1e-5,
                size,
                doubles[2],
                is_first,  # type: ignore[arg-type]
            )
            assert_close(found, expected)


@each_dtype
def test_gates_of_recurrent_layers(dtype: torch.dtype) -> None:
    """Softplus from tiny values to large ones; parts of wider rows."""
    wide = torch.linspace(-60, 40, 7 * 46).view(46, 7).T.contiguous().to(dtype).to(DEVICE)
    (a, b), bias = wide.chunk(2, 1), randn(23, seed=1)
    for limits in ((0.0, math.inf), (0.001, 0.1)):
        for given in (bias, None):
            found = gates.time_steps(a, given, limits)
            assert found is not None
            double = None if given is None else given.double()
            expected = reference.time_steps(a.double(), double, limits)
            torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-12)
    decays = gates.delta_gates(a, b, -bias.abs(), bias)
    assert decays is not None
    wanted = reference.delta_gates(a.double(), b.double(), -bias.abs().double(), bias.double())
    for one, other in zip(decays, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-6, atol=1e-12)


@each_dtype
def test_gated_rows(dtype: torch.dtype) -> None:
    x, gate = randn(5, 60, seed=1, dtype=dtype).split((30, 30), 1)
    for kind in ("silu", None):
        found = activation.gate_rows(x, gate, kind)
        assert found is not None
        assert_close(found, reference.gate_rows(x.double(), gate.double(), kind))


@each_dtype
@pytest.mark.parametrize("has_residual", [False, True])
def test_rms_norm(dtype: torch.dtype, has_residual: bool) -> None:
    x, weight = randn(3, 80, seed=1, dtype=dtype), randn(80, seed=3, dtype=dtype)
    residual = randn(3, 80, seed=2, dtype=dtype) if has_residual else None
    found = norm.rms_norm(x, weight, 1e-6, residual)
    assert found is not None
    _compare(found, reference.rms_norm(*_double(x, weight), 1e-6, *_double(residual)))
    wide = 1 + weight.float() / 512  # a zero-centred scale, in float32 whatever x is
    found = norm.rms_norm(x, wide, 1e-6, residual)
    assert found is not None and found[0].dtype == dtype
    _compare(found, reference.rms_norm(*_double(x, wide), 1e-6, *_double(residual)))


def test_norms_of_no_rows_and_strided_rows() -> None:
    empty = randn(0, 16, seed=1)
    assert norm.rms_norm(empty, randn(16, seed=2), 1e-6, None)[0].shape == (0, 16)
    rows = randn(4, 40, seed=1)[:, :20]
    found = norm.rms_norm(rows, randn(20, seed=2), 1e-6, rows)
    _compare(found, reference.rms_norm(*_double(rows, randn(20, seed=2)), 1e-6, *_double(rows)))


@each_dtype
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations(dtype: torch.dtype, name: str) -> None:
    x = 3 * randn(3, 40, seed=1, dtype=dtype)
    check(activation.activate, reference.activate, x, name)
    check(activation.gated_activation, reference.gated_activation, x, name)


@each_dtype
def test_the_gated_unit_of_gpt_oss(dtype: torch.dtype) -> None:
    x = 6 * randn(3, 40, seed=1, dtype=dtype)
    check(activation.gated_activation, reference.gated_activation, x, "gpt_oss")
    x[1, 3] = x[2, 30] = float("nan")
    found = activation.gated_activation(x, "gpt_oss")
    assert found is not None and found.isnan().nonzero().tolist() == [[1, 3], [2, 10]]
    assert activation.activate(x, "gpt_oss") is None


def test_large_inputs_do_not_overflow() -> None:
    x = torch.tensor([[-3e4, -90.0, 90.0, 3e4]], device=DEVICE)
    for name in ACTIVATIONS:
        check(activation.activate, reference.activate, x, name)


@each_dtype
@pytest.mark.parametrize(("num_heads", "head_dim", "half"), [(5, 16, 8), (4, 20, 4), (1, 80, 20)])
def test_rope(dtype: torch.dtype, num_heads: int, head_dim: int, half: int) -> None:
    """Whole heads and parts of them, on a slice of a fused projection."""
    qkv = randn(3, num_heads + 2, head_dim, seed=1, dtype=dtype)
    cos, sin = _tables(half)
    positions = torch.tensor([0, 7, 3], device=DEVICE)
    expected = reference.apply_rope(qkv[:, :num_heads].double(), positions, cos, sin)
    untouched = qkv[:, num_heads:].clone()
    found = rope.apply_rope(qkv[:, :num_heads], positions, cos, sin)
    assert found is not None
    assert_close(found, expected)
    assert torch.equal(qkv[:, num_heads:], untouched)


@each_dtype
@pytest.mark.parametrize(("head_dim", "half"), [(16, 8), (20, 4)])
def test_rope_with_kv_write(dtype: torch.dtype, head_dim: int, half: int) -> None:
    """Equals the three separate kernels, bit by bit; slot -1 writes nothing."""
    q, k, v = randn(3, 17, head_dim, seed=1, dtype=dtype).split([6, 5, 6], dim=1)
    v = v[:, :5]
    positions = torch.tensor([4, 0, 9], device=DEVICE)
    slots = torch.tensor([6, -1, 1], device=DEVICE)
    tables = _tables(half)
    fused, apart = ([x.clone() for x in (q, k, v)] for _ in range(2))
    caches = [torch.full((2, 4, 5, head_dim), 7.0, dtype=dtype, device=DEVICE) for _ in range(4)]
    assert rope.rope_write_kv(*fused, positions, *tables, *caches[:2], slots)
    rope.apply_rope(apart[0], positions, *tables)
    rope.apply_rope(apart[1], positions, *tables)
    assert rope.write_kv(*apart[1:], *caches[2:], slots)
    for left, right in zip((*fused, *caches[:2]), (*apart, *caches[2:]), strict=True):
        assert torch.equal(left, right)


@each_dtype
def test_write_kv(dtype: torch.dtype) -> None:
    k, v = randn(4, 10, 12, seed=1, dtype=dtype).split(5, dim=1)
    slots = torch.tensor([5, -1, 0, 7], device=DEVICE)
    ours, theirs = ([torch.ones(2, 4, 5, 12, dtype=dtype, device=DEVICE) for _ in "kv"]
                    for _ in range(2))  # fmt: skip
    assert rope.write_kv(k, v, *ours, slots) and reference.write_kv(k, v, *theirs, slots)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    # Latent rows are keys alone.
    alone = torch.ones_like(ours[0])
    assert rope.write_kv(k, None, alone, None, slots) and torch.equal(alone, theirs[0])


def _tables(half: int) -> tuple[Tensor, Tensor]:
    angles = randn(12, half, seed=5)
    return angles.cos(), angles.sin()


def _double(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.double() for t in tensors]


def _compare(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs)

"""Products with 4-bit and 8-bit weights: GPTQ, act-order GPTQ, AWQ, and weights packed here."""

from dataclasses import replace

import pytest
import torch
from interpreted import DEVICE, DTYPES, assert_close, randn
from torch import Tensor

from atoll_kernels import PackedLinear
from atoll_kernels.activation import ACTIVATIONS
from atoll_kernels.gpu import gemv, quantized

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def codes_of(
    inputs: int, outputs: int, group: int, act_order: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """codes, zeros (16 included, as GPTQ's first format may have it), scales, groups."""
    generator = torch.Generator().manual_seed(inputs + outputs)
    codes = torch.randint(0, 16, (inputs, outputs), generator=generator, dtype=torch.int32)
    zeros = torch.randint(0, 17, (inputs // group, outputs), generator=generator)
    scales = (torch.rand(inputs // group, outputs, generator=generator) + 0.1).half()
    groups = torch.arange(inputs) // group
    if act_order:
        groups = groups[torch.randperm(inputs, generator=generator)]
    return codes.to(DEVICE), zeros.to(DEVICE), scales.to(DEVICE), groups.to(DEVICE)


def expanded(codes: Tensor, zeros: Tensor, scales: Tensor, groups: Tensor) -> Tensor:
    """(inputs, outputs) float64."""
    return scales.double()[groups] * (codes - zeros[groups]).double()


@each_dtype
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("rows", "inputs", "outputs", "group"), [
    (1, 64, 40, 32), (18, 96, 33, 16), (3, 80, 64, 80), (40, 32, 32, 32),
])  # fmt: skip
def test_int4(
    dtype: torch.dtype, act_order: bool, rows: int, inputs: int, outputs: int, group: int
) -> None:
    parts = codes_of(inputs, outputs, group, act_order)
    packed = quantized.pack_int4(*parts, None, dtype)
    assert isinstance(packed, quantized.GpuInt4)
    x = randn(rows, inputs, seed=1, dtype=dtype)
    found = packed.forward(x)
    assert_close(found, x.double() @ expanded(*parts))


@each_dtype
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("activation", [None, "gelu", "silu", "relu"])
def test_bias_activation_and_splits(
    dtype: torch.dtype, splits: int, activation: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "num_splits", lambda *_, waves: splits)
    parts, bias = codes_of(128, 40, 32, True), randn(40, seed=2, dtype=dtype)
    packed = quantized.pack_int4(*parts, bias, dtype)
    assert packed is not None
    x = randn(5, 128, seed=1, dtype=dtype)
    expected = x.double() @ expanded(*parts) + bias.double()
    expected = expected if activation is None else ACTIVATIONS[activation](expected)
    found = packed.forward(x, activation)
    assert_close(found, expected)


@each_dtype
@pytest.mark.parametrize("rows", [1, 5])
def test_int8(dtype: torch.dtype, rows: int) -> None:
    weight, bias = randn(33, 48, seed=1, dtype=dtype), randn(33, seed=2, dtype=dtype)
    packed = quantized.pack_linear(weight, bias, "int8", 32)
    assert packed is not None
    x = randn(rows, 48, seed=3, dtype=dtype)
    codes, scales = packed.tensors
    stands_for = codes.double() * scales.double()
    assert (stands_for.t() - weight.double()).abs().max() <= scales.max() / 2 + 1e-7
    found = packed.forward(x, "gelu")
    exact = x.double() @ stands_for + bias.double()
    assert_close(found, ACTIVATIONS["gelu"](exact))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_many_rows_meet_dequantised_weights(
    dtype: torch.dtype, act_order: bool, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "_CUBLAS_ROWS", 5)
    bias = randn(40, seed=2, dtype=dtype)
    if bits == 4:
        parts = codes_of(192, 40, 16, act_order)
        packed, weight = quantized.pack_int4(*parts, bias, dtype), expanded(*parts)
    else:
        packed = quantized.pack_linear(randn(40, 192, seed=3, dtype=dtype), bias, "int8", 32)
        assert packed is not None
        weight = packed.tensors[0].double() * packed.tensors[1].double()
    assert packed is not None
    assert_close(packed.dequantized(dtype), weight)
    x = randn(5, 192, seed=1, dtype=dtype)
    for layer, added in ((packed, bias.double()), (replace(packed, bias=None), 0.0)):
        found = layer.forward(x, "silu")
        assert_close(found, ACTIVATIONS["silu"](x.double() @ weight + added))


@each_dtype
def test_quantising_to_int4_stays_within_half_a_step(dtype: torch.dtype) -> None:
    weight = randn(24, 64, seed=1, dtype=dtype)
    packed = quantized.pack_linear(weight, None, "int4", 32)
    assert packed is not None and packed.tensors[0].numel() * 4 == weight.numel() // 2
    identity = torch.eye(64, dtype=dtype, device=DEVICE)
    found = packed.forward(identity)
    steps = packed.tensors[1].double().t().repeat_interleave(32, dim=1)
    error = (found.double().t() - weight.double()).abs()
    assert (error <= 0.51 * steps + 0.02 * weight.double().abs() + 1e-3).all()


def test_refuses_what_it_cannot_tile() -> None:
    """Groups of unequal size, or none a multiple of 16, go to the reference."""
    codes, zeros, scales, groups = codes_of(64, 16, 32, False)
    one = torch.zeros_like(groups)
    assert quantized.pack_int4(codes, zeros, scales, one, None, DTYPES[1]) is None
    odd = codes_of(48, 16, 24, False)
    assert quantized.pack_int4(*odd, None, DTYPES[1]) is None
    assert quantized.pack_linear(randn(8, 24, seed=1), None, "int8", 32) is None
    assert quantized.pack_linear(randn(8, 24, seed=1), None, "int4", 32) is None


def test_dense_rows_are_cublas_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a single one."""
    rows: list[int] = []
    monkeypatch.setattr(quantized, "dense_row", lambda x, *_: rows.append(len(x)))
    weight = randn(8, 8, seed=2)
    packed = quantized.pack_linear(weight, None, "dense", 32)
    assert packed is not None
    for num_rows in (1, 2):
        x = randn(num_rows, 8, seed=1)
        assert torch.equal(packed.forward(x), torch.nn.functional.linear(x, weight))
    assert rows == [1]


def _dense(dtype: torch.dtype, inputs: int, outputs: int, bias: Tensor) -> quantized.GpuDense:
    weight = randn(outputs, inputs, seed=1, dtype=dtype)
    return quantized.GpuDense(inputs, outputs, (weight,), bias)


@each_dtype
@pytest.mark.parametrize("num_processors", [1, 132])
@pytest.mark.parametrize("kind", ["dense", "int4", "int4, act-order"])
def test_a_single_row(
    dtype: torch.dtype, kind: str, num_processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own kernels: with one program a block of columns, and with the inputs split."""
    monkeypatch.setattr(gemv.launch, "num_processors", lambda: num_processors)
    # Enough for a last block that is not whole, or for splits of the groups.
    inputs, outputs = 384 if kind == "dense" else 192, 37
    bias = randn(outputs, seed=2, dtype=dtype)
    if kind == "dense":
        packed: PackedLinear | None = _dense(dtype, inputs - 5, outputs, bias)
        assert packed is not None
        weight = packed.tensors[0].double().t()
    else:
        parts = codes_of(inputs, outputs, 16, kind.endswith("order"))
        packed, weight = quantized.pack_int4(*parts, bias, dtype), expanded(*parts)
    assert packed is not None
    x = randn(1, packed.in_features, seed=3, dtype=dtype)
    monkeypatch.setattr(quantized.TorchDense, "forward", _never)
    monkeypatch.setattr(quantized.GpuQuantized, "forward", _never)
    found = packed.forward(x, "silu")
    assert_close(found, ACTIVATIONS["silu"](x.double() @ weight + bias.double()))
    plain = replace(packed, bias=None).forward(x)
    assert_close(plain, x.double() @ weight)


def _never(*_: object) -> None:
    raise AssertionError("a single row has a kernel of its own")


def test_no_rows() -> None:
    packed = quantized.pack_int4(*codes_of(64, 40, 32, False), None, torch.float32)
    found = packed.forward(randn(0, 64, seed=1))
    assert found.shape == (0, 40)


def fp4_weights(outputs: int, inputs: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks, scales, and the weights (float64) that they stand for."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (outputs, inputs), generator=generator)
    scales = torch.randint(120, 126, (outputs, inputs // 32), generator=generator)
    sizes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    values = torch.tensor([*sizes, *(-x for x in sizes)]).double()[codes]
    dense = values * (2.0 ** (scales - 127).double()).repeat_interleave(32, 1)
    blocks = (codes[:, ::2] + 16 * codes[:, 1::2]).view(outputs, -1, 16)
    return blocks.byte().to(DEVICE), scales.byte().to(DEVICE), dense.to(DEVICE)


@each_dtype
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 40, 64), (18, 33, 96), (3, 64, 256)])
def test_mxfp4(dtype: torch.dtype, rows: int, outputs: int, inputs: int) -> None:
    """Tiles of one group of inputs and of two."""
    blocks, scales, dense = fp4_weights(outputs, inputs)
    x, bias = randn(rows, inputs, seed=1, dtype=dtype), randn(outputs, seed=2, dtype=dtype)
    packed = quantized.pack_mxfp4(blocks, scales, bias, dtype)
    assert packed.scheme == "mxfp4"
    assert 8 * sum(tensor.nbytes for tensor in packed.tensors) == 4.25 * dense.numel()
    assert_close(packed.forward(x), x.double() @ dense.t() + bias.double())
    if dtype != torch.float32:
        assert isinstance(packed, quantized.GpuMxfp4)
        assert torch.equal(packed.dequantized(dtype).double(), dense.t())


def test_the_smallest_and_the_largest_scale_of_mxfp4() -> None:
    """2^-127 and 2^113."""
    blocks = torch.full((2, 1, 16), 0x77, dtype=torch.uint8, device=DEVICE)
    scales = torch.tensor([[0], [240]], dtype=torch.uint8, device=DEVICE)
    x = torch.zeros(1, 32, device=DEVICE)
    x[0, 5] = 2.0
    packed = quantized.pack_mxfp4(blocks, scales, None, torch.float32)
    assert packed.forward(x).tolist() == [[6 * 2.0**-126, 6 * 2.0**114]]

"""The router, the grouping by expert, and the grouped products."""

import pytest
import torch
from interpreted import DEVICE, DTYPES, assert_close, randn
from torch import Tensor

from atoll_kernels import PackedLinear, Routing, reference
from atoll_kernels.gpu import moe, quantized
from atoll_kernels.reference.linear import TorchDense, TorchInt8

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def dense(weight: Tensor) -> PackedLinear:
    return quantized.GpuDense(weight.shape[1], weight.shape[0], (weight,), None)


def experts_of(num: int, hidden: int, inter: int, dtype: torch.dtype) -> list[list[PackedLinear]]:
    gate_up = [dense(randn(2 * inter, hidden, seed=i, dtype=dtype) / 4) for i in range(num)]
    down = [dense(randn(hidden, inter, seed=50 + i, dtype=dtype) / 4) for i in range(num)]
    return [gate_up, down]


def expected_of(x: Tensor, logits: Tensor, sides: list[list[PackedLinear]], top_k: int) -> Tensor:
    """The reference in float64."""
    wide = [[dense(layer.tensors[0].double()) for layer in side] for side in sides]
    packed = reference.pack_experts(x, *map(tuple, wide))
    return packed.forward(x.double(), logits.double(), Routing(top_k), "silu")


@each_dtype
@pytest.mark.parametrize(("tokens", "num", "top_k"), [(1, 8, 2), (37, 8, 2), (20, 3, 1), (5, 4, 3)])
def test_equals_the_experts_one_by_one(
    dtype: torch.dtype, tokens: int, num: int, top_k: int
) -> None:
    sides = experts_of(num, 32, 24, dtype)
    x, logits = randn(tokens, 32, seed=99, dtype=dtype), randn(tokens, num, seed=98, dtype=dtype)
    expected = expected_of(x, logits, sides, top_k)
    packed = moe.pack_experts(x, *map(tuple, sides))
    assert packed is not None
    found = packed.forward(x, logits, Routing(top_k), "silu")
    assert_close(found, expected)


def test_one_expert_takes_all() -> None:
    """The longest part, and seven empty ones."""
    sides = experts_of(8, 16, 16, torch.float32)
    x, logits = randn(40, 16, seed=1), torch.zeros(40, 8, device=DEVICE)
    logits[:, 6] = 9.0
    expected = expected_of(x, logits, sides, 1)
    packed = moe.pack_experts(x, *map(tuple, sides))
    assert packed is not None
    found = packed.forward(x, logits, Routing(1), "silu")
    assert_close(found, expected)


@each_dtype
@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_quantised_experts(dtype: torch.dtype, scheme: str) -> None:
    """Equal to the same layers, one by one, through the quantised linear kernel."""
    pairs = [
        [quantized.pack_linear(layer.tensors[0], None, scheme, 16) for layer in side]
        for side in experts_of(4, 32, 48, dtype)
    ]
    sides = [[layer for layer in side if layer is not None] for side in pairs]
    x, logits = randn(9, 32, seed=1, dtype=dtype), randn(9, 4, seed=2, dtype=dtype)

    def expand(layer: PackedLinear) -> PackedLinear:
        eye = torch.eye(layer.in_features, device=DEVICE)
        return dense(layer.forward(eye).t())

    expanded = [[expand(layer) for layer in side] for side in sides]
    expected = expected_of(x, logits, expanded, 2)
    packed = moe.pack_experts(x, *map(tuple, sides))
    assert isinstance(packed, moe.StackedExperts) and packed.bits == int(scheme[3:])
    found = packed.forward(x, logits, Routing(2), "silu")
    assert_close(found, expected)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize(("top_k", "num"), [(1, 8), (2, 8), (3, 5), (8, 8)])
def test_routing(top_k: int, num: int, renormalize: bool) -> None:
    logits = randn(37, num, seed=4)
    found = moe.route(logits, Routing(top_k, renormalize=renormalize), None)
    assert found is not None
    chosen, shares = found
    mass, best = logits.double().softmax(-1).topk(top_k)
    assert torch.equal(chosen.long(), best)
    expected = mass / mass.sum(-1, keepdim=True) if renormalize else mass
    assert_close(shares, expected)


def test_shares_of_all_experts() -> None:
    """Of Qwen2's mixtures, whose shares do not sum to one."""
    sides = experts_of(5, 32, 24, torch.float32)
    x, logits = randn(9, 32, seed=1), randn(9, 5, seed=2)
    wide = [[dense(layer.tensors[0].double()) for layer in side] for side in sides]
    loop = reference.pack_experts(x, *map(tuple, wide))
    packed = moe.pack_experts(x, *map(tuple, sides))
    assert packed is not None
    routing = Routing(2, renormalize=False)
    expected = loop.forward(x.double(), logits.double(), routing, "silu")
    assert_close(packed.forward(x, logits, routing, "silu"), expected)


def test_routing_of_nan_stays_in_range() -> None:
    """A broken row must not make other tokens' experts unreachable, or write out of bounds."""
    logits = randn(3, 6, seed=4)
    logits[1] = float("nan")
    found = moe.route(logits, Routing(2), None)
    assert found is not None
    chosen, _ = found
    assert ((chosen >= 0) & (chosen < 6)).all()


def test_stacking_leaves_views() -> None:
    """The layers' own weights are not held a second time."""
    sides = experts_of(3, 16, 16, torch.float32)
    before = [layer.tensors[0].clone() for layer in sides[0]]
    packed = moe.pack_experts(before[0], *map(tuple, sides))
    assert packed is not None
    for index, layer in enumerate(sides[0]):
        assert layer.tensors[0].data_ptr() == packed.gate_up[0][index].data_ptr()
        assert torch.equal(layer.tensors[0], before[index])


@each_dtype
@pytest.mark.parametrize("scheme", ["mxfp4", "dense"])
def test_experts_of_gpt_oss(dtype: torch.dtype, scheme: str) -> None:
    """With biases, and its gated unit; other widths of the two layers than of a tile."""
    sides: list[list[PackedLinear]] = [[], []]
    wide: list[list[PackedLinear]] = [[], []]
    for index in range(4):
        for side, (outputs, inputs) in enumerate(((64, 96), (96, 32))):
            generator = torch.Generator().manual_seed(2 * index + side)
            shape = (outputs, inputs // 32)
            blocks = torch.randint(0, 256, (*shape, 16), generator=generator).byte().to(DEVICE)
            scales = torch.randint(121, 126, shape, generator=generator).byte().to(DEVICE)
            bias = randn(outputs, seed=index, dtype=dtype)
            weight = reference.pack_mxfp4(blocks, scales, None, dtype).forward(
                torch.eye(inputs, device=DEVICE, dtype=torch.float32)
            )
            wide[side].append(TorchDense(inputs, outputs, (weight.t().double(),), bias.double()))
            if scheme == "mxfp4":
                sides[side].append(quantized.pack_mxfp4(blocks, scales, bias, dtype))
            else:
                stored = weight.t().to(dtype).contiguous()
                sides[side].append(quantized.GpuDense(inputs, outputs, (stored,), bias))
    x, logits = randn(19, 96, seed=1, dtype=dtype), randn(19, 4, seed=2, dtype=dtype)
    loop = reference.pack_experts(x, *map(tuple, wide))
    expected = loop.forward(x.double(), logits.double(), Routing(2), "gpt_oss")
    packed = moe.pack_experts(x, *map(tuple, sides))
    assert isinstance(packed, moe.StackedExperts) and packed.is_fp4 == (scheme == "mxfp4")
    assert_close(packed.forward(x, logits, Routing(2), "gpt_oss"), expected)


def test_declines_layers_that_differ() -> None:
    gate_up, down = experts_of(2, 16, 16, torch.float32)
    gate_up[1].bias = randn(32, seed=1)
    assert moe.pack_experts(down[0].tensors[0], tuple(gate_up), tuple(down)) is None
    foreign = TorchInt8(16, 16, (gate_up[0].tensors[0],), None)
    assert moe.pack_experts(down[0].tensors[0], (foreign, foreign), tuple(down)) is None

"""One attention layer for all: what no architecture here combines yet, against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from devices import DEVICE
from torch import Tensor

import atoll_kernels as kernels
from atoll.layers import Attention, Batch, Heads
from atoll.layers.rotary import RopeSpec, Rotary, rope_tables
from atoll.runner.kv_cache import allocate
from atoll_kernels import dispatch
from atoll_kernels.dispatch import KernelPolicy

HIDDEN, HEADS = 48, Heads(num_heads=4, num_kv_heads=2, head_dim=16)
ROPE = RopeSpec(dim=12, theta=1e4, max_positions=64)
LENGTHS = (19, 1, 7)


@pytest.fixture(params=["native", "reference"])
def _policy(request: pytest.FixtureRequest) -> Iterator[None]:
    dispatch.configure(KernelPolicy(disable_custom_kernels=request.param == "reference"))
    yield
    dispatch.configure(KernelPolicy())


def _layer(causal: bool, window: int | None) -> tuple[Attention, dict[str, Tensor]]:
    """The layer, and its weights in float64."""
    layer = Attention(HIDDEN, HEADS, causal=causal, window=window, rotary=Rotary(ROPE), scale=0.2)
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for name, linear in (("qkv", layer.qkv), ("out", layer.out)):
        shape = (linear.out_features, linear.in_features)
        weight = torch.randn(shape, generator=generator) * 0.2
        bias = torch.randn(shape[0], generator=generator) * 0.1
        linear.packed = kernels.pack_linear(weight.to(DEVICE), bias.to(DEVICE), "dense", 32)
        weights |= {f"{name}.weight": weight.double(), f"{name}.bias": bias.double()}
    return layer, weights


def _rotated(x: Tensor) -> Tensor:
    """(tokens, heads, head_dim): the first ``dim`` features turned by their position's angles."""
    tables = rope_tables(ROPE, len(x), torch.device("cpu"))
    cos, sin = (table.double().unsqueeze(1) for table in tables)
    half = ROPE.dim // 2
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def _expected(x: Tensor, weights: dict[str, Tensor], causal: bool, window: int | None) -> Tensor:
    """One text, (tokens, hidden)."""
    qkv = F.linear(x.double(), weights["qkv.weight"], weights["qkv.bias"])
    heads = qkv.view(len(x), -1, HEADS.head_dim)
    q, k, v = heads.split([HEADS.num_heads, HEADS.num_kv_heads, HEADS.num_kv_heads], 1)
    groups = HEADS.num_heads // HEADS.num_kv_heads
    q, k, v = _rotated(q), _rotated(k).repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * 0.2
    distance = torch.arange(len(x)) - torch.arange(len(x)).unsqueeze(1)
    hidden = distance > 0 if causal else torch.zeros_like(distance, dtype=torch.bool)
    if window is not None:
        hidden = hidden | (distance.abs() >= window)
    shares = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    out = torch.einsum("hqk,khd->qhd", shares, v).flatten(1)
    return F.linear(out, weights["out.weight"], weights["out.bias"])


@pytest.mark.usefixtures("_policy")
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("causal", [False, True], ids=["symmetric", "causal"])
@torch.inference_mode()
def test_rotary_and_windows_without_a_cache(causal: bool, window: int | None) -> None:
    """Symmetric, it is an encoder's as ModernBERT has it; causal, a decoder's as embedder."""
    layer, weights = _layer(causal, window)
    x = torch.randn(sum(LENGTHS), HIDDEN, generator=torch.Generator().manual_seed(4))
    found = layer(x.to(DEVICE), _batch()).cpu().split(LENGTHS)
    for ours, text in zip(found, x.split(LENGTHS), strict=True):
        expected = _expected(text, weights, causal, window)
        torch.testing.assert_close(ours.double(), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.usefixtures("_policy")
@torch.inference_mode()
def test_with_a_cache_as_without() -> None:
    layer, _ = _layer(causal=True, window=4)
    x = torch.randn(sum(LENGTHS), HIDDEN, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    plain, size = _batch(), max(LENGTHS)
    slots = [size * row + at for row, count in enumerate(LENGTHS) for at in range(count)]
    cached = Batch(
        plain.input_ids, plain.positions, plain.cu_seqlens, plain.max_position,
        seq_lens=torch.tensor(LENGTHS, dtype=torch.int32, device=DEVICE),
        block_tables=(torch.arange(3, dtype=torch.int32, device=DEVICE).unsqueeze(1),),
        slot_mappings=(torch.tensor(slots, device=DEVICE),),
        kv_cache=allocate([layer.cache_spec], 3, size, torch.float32, DEVICE),
    )  # fmt: skip
    torch.testing.assert_close(layer(x, cached), layer(x, plain), atol=2e-5, rtol=1e-5)


def _batch() -> Batch:
    """Texts of LENGTHS tokens, without a cache."""
    positions = torch.cat([torch.arange(count) for count in LENGTHS])
    ends = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    return Batch(
        torch.zeros_like(positions).to(DEVICE), positions.to(DEVICE), ends.to(DEVICE),
        max(LENGTHS) - 1,
    )  # fmt: skip

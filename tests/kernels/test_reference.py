"""The torch implementations of what SDPA and torch's own layers lack, against plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import atoll_kernels as kernels
from atoll_kernels import reference
from atoll_kernels.attention import AttentionArgs, PagedKV
from atoll_kernels.linear import PackedLinear

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def _ends(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("value_dim", [16, 12])
def test_sinks_and_narrow_values(window: int | None, softcap: float | None, value_dim: int) -> None:
    """Packed and paged, entry by entry; a query before all keys is 0 in spite of its sink."""
    q, k = torch.randn(9, 4, 16).double(), torch.randn(7, 2, 16).double()
    v, sinks = torch.randn(7, 2, 16).double()[..., :value_dim], torch.randn(4)
    args = AttentionArgs(0.3, causal=True, window=window, softcap=softcap, sinks=sinks)
    wanted = torch.zeros(9, 4, value_dim).double()
    for row in range(9):
        for head in range(4):
            position = row - 2
            seen = [j for j in range(7) if j <= position and position - j < (window or 9)]
            scores = [0.3 * float(q[row, head] @ k[j, head // 2]) for j in seen]
            if softcap:
                scores = [softcap * math.tanh(s / softcap) for s in scores]
            powers = [math.exp(s) for s in scores]
            whole = sum(powers) + math.exp(float(sinks[head]))
            for power, j in zip(powers, seen, strict=True):
                wanted[row, head] += power / whole * v[j, head // 2]
    found = reference.varlen_attention(q, k, v, _ends(9), _ends(7), args)
    torch.testing.assert_close(found, wanted)
    table = torch.tensor([[2, 0]]).int()
    caches = torch.randn(2, 3, 4, 2, 16).double()
    for cache, rows in ((caches[0], k), (caches[1, ..., :value_dim], v)):
        cache[2], cache[0, :3] = rows[:4], rows[4:]
    kv = PagedKV(caches[0], caches[1, ..., :value_dim], table, torch.tensor([7]).int())
    torch.testing.assert_close(reference.paged_attention(q, kv, _ends(9), args), wanted)


@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, -1.0, 2.0])])
def test_values_that_are_a_part_of_the_keys(sinks: Tensor | None) -> None:
    """The latent cache: one row per token for all heads, written as keys alone."""
    latent, cache = torch.randn(5, 1, 24), torch.randn(2, 4, 1, 24)
    before = cache.clone()
    kernels.write_kv(latent, None, cache, None, torch.tensor([4, 5, -1, 7, 1]))
    kept = torch.tensor([0, 1, 3, 4])
    assert torch.equal(cache.view(8, 24)[[4, 5, 7, 1]], latent[kept, 0])
    assert torch.equal(cache.view(8, 24)[[0, 2, 3, 6]], before.view(8, 24)[[0, 2, 3, 6]])
    q = torch.randn(2, 3, 24)
    kv = PagedKV(cache, cache[..., :16], torch.tensor([[1, 0]]).int(), torch.tensor([6]).int())
    args = AttentionArgs(0.2, causal=True, sinks=sinks)
    found = kernels.paged_attention(q, kv, _ends(2), args)
    rows = torch.cat((cache[1], cache[0]))[:6, 0].double()
    for i, seen in enumerate((5, 6)):
        scores = 0.2 * q[i].double() @ rows[:seen].t()
        powers = scores.exp()
        dropped = 0 if sinks is None else sinks.double().exp()[:, None]
        weights = powers / (powers.sum(1, keepdim=True) + dropped)
        torch.testing.assert_close(found[i].double(), weights @ rows[:seen, :16], rtol=0, atol=5e-6)


def mxfp4(out_features: int, in_features: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks, scales, and the weights (float64) that they stand for, by the format's definition."""
    generator = torch.Generator().manual_seed(seed)
    shape = (out_features, in_features // 32)
    blocks = torch.randint(0, 256, (*shape, 16), generator=generator)
    scales = torch.randint(120, 128, shape, generator=generator)
    values = torch.tensor([*E2M1, *(-x for x in E2M1)]).double()
    pairs = torch.stack([values[blocks % 16], values[blocks // 16]], -1).flatten(2)
    dense = pairs * 2.0 ** (scales - 127).double()[..., None]
    return blocks.to(torch.uint8), scales.to(torch.uint8), dense.flatten(1)


def expert(seed: int, hidden: int, inter: int) -> tuple[list[PackedLinear], list[Tensor]]:
    """Two packed layers with biases; and their weights and biases."""
    layers, parts = [], []
    for shape in ((2 * inter, hidden), (hidden, inter)):
        blocks, scales, dense = mxfp4(*shape, seed)
        bias = torch.randn(shape[0])
        layers.append(kernels.pack_mxfp4(blocks, scales, bias, torch.float32))
        parts += [dense, bias.double()]
    return layers, parts


def gpt_oss(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, 1)
    gate, up = gate.clamp(max=7), up.clamp(-7, 7)
    return (up + 1) * gate / (1 + (-1.702 * gate).exp())


def test_mxfp4() -> None:
    blocks, scales, dense = mxfp4(10, 96, 0)
    x, bias = torch.randn(3, 96), torch.randn(10)
    packed = reference.pack_mxfp4(blocks, scales, bias, torch.float32)
    assert packed.scheme == "mxfp4" and (packed.in_features, packed.out_features) == (96, 10)
    assert 8 * sum(tensor.nbytes for tensor in packed.tensors) == 4.25 * dense.numel()
    wanted = x.double() @ dense.t() + bias
    for dtype, limit in ((torch.float32, 2e-6), (torch.bfloat16, 2e-2)):
        packed = reference.pack_mxfp4(blocks, scales, bias.to(dtype), dtype)
        found = packed.forward(x.to(dtype))
        assert found.dtype == dtype
        assert float((found - wanted).abs().max()) <= limit * float(wanted.abs().max())
    gated = reference.pack_mxfp4(blocks, scales, None, torch.float32).gated(x, "gpt_oss")
    torch.testing.assert_close(gated, gpt_oss(x.double() @ dense.t()).float())


@pytest.mark.parametrize("num_tokens", [1, 9])
def test_experts_of_gpt_oss(num_tokens: int) -> None:
    """MXFP4 with biases, the softmax of the chosen ones alone, a clamped gate."""
    both = [expert(seed, 64, 32) for seed in range(5)]
    packed = kernels.pack_experts(*map(list, zip(*(layers for layers, _ in both), strict=True)))
    x, logits = 3 * torch.randn(num_tokens, 64), torch.randn(num_tokens, 5)
    found = kernels.mixture_of_experts(x, logits, packed, kernels.Routing(2), "gpt_oss")
    wanted = torch.zeros(num_tokens, 64).double()
    for row in range(num_tokens):
        best = logits[row].double().topk(2)
        for share, index in zip(best.values.softmax(0), best.indices, strict=True):
            up, up_bias, down, down_bias = both[int(index)][1]
            hidden = gpt_oss((x[row].double() @ up.t() + up_bias)[None])[0]
            wanted[row] += share * (hidden @ down.t() + down_bias)
    assert float((found - wanted).abs().max()) <= 2e-6 * float(wanted.abs().max())


def test_what_mxfp4_refuses() -> None:
    blocks, scales, _ = mxfp4(4, 64, 0)
    scales[3, 1] = 255
    with pytest.raises(ValueError, match="code 255; the limit is 240"):
        kernels.pack_mxfp4(blocks, scales, None, torch.float32)
    with pytest.raises(
        ValueError, match=r"blocks have shape \(4, 2, 16\); scales of shape \(4, 1\)"
    ):
        kernels.pack_mxfp4(blocks, scales[:, :1], None, torch.float32)

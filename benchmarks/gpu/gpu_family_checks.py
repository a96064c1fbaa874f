"""Checks of kernels that single families need: MLA's latent cache, and weights in MXFP4."""

from __future__ import annotations

import torch
from gpu_inputs import cu_seqlens
from gpu_pairs import Pair, run
from interpreted import DEVICE, randn
from torch import Tensor

from atoll_kernels import PackedLinear, Routing, reference
from atoll_kernels.attention import AttentionArgs, PagedKV
from atoll_kernels.gpu import latent, moe, quantized
from atoll_kernels.linear import E2M1, mxfp4_codes
from atoll_kernels.reference.linear import TorchDense


def latent_cache(
    num_heads: int, widths: tuple[int, int], contexts: tuple[int, ...], dtype: torch.dtype
) -> Pair:
    """One new token of each sequence; widths: of the values, and of the rest of a row."""
    needed = [max(1, -(-n // 16)) for n in contexts]
    shape = (sum(needed), 16, 1, sum(widths))
    keys = randn(*shape, seed=1, dtype=dtype)
    table = torch.zeros(len(contexts), max(needed), dtype=torch.int32)
    blocks = torch.randperm(sum(needed), generator=torch.Generator().manual_seed(3)).int()
    for row, own in enumerate(blocks.split(needed)):
        table[row, : len(own)] = own
    lengths = torch.tensor(contexts, dtype=torch.int32, device=DEVICE)
    kv = PagedKV(keys, keys[..., : widths[0]], table.to(DEVICE), lengths)
    q = randn(len(contexts), num_heads, sum(widths), seed=2, dtype=dtype)
    ends = cu_seqlens((1,) * len(contexts), DEVICE)
    args = AttentionArgs(sum(widths) ** -0.5, causal=True)
    found = run(latent.paged, q, kv, ends, args)
    wide = kv._replace(keys=keys.double(), values=kv.values.double())
    exact = reference.paged_attention(q.double(), wide, ends, args)
    return (found,), (exact,)


def mxfp4_linear(rows: int, outputs: int, inputs: int, dtype: torch.dtype) -> Pair:
    """Outputs that no tile divides."""
    packed, exact = _mxfp4(outputs, inputs, 1, dtype)
    x = randn(rows, inputs, seed=3, dtype=dtype)
    return (run(packed.forward, x),), (exact.forward(x.double()),)


def mxfp4_experts(rows: int, hidden: int, inter: int, dtype: torch.dtype) -> Pair:
    """Eight experts, four for each token, with gpt-oss's gated unit."""
    up = [_mxfp4(2 * inter, hidden, 10 + i, dtype) for i in range(8)]
    down = [_mxfp4(hidden, inter, 50 + i, dtype) for i in range(8)]
    x, logits = randn(rows, hidden, seed=3, dtype=dtype), randn(rows, 8, seed=4, dtype=dtype)
    packed, exact = (tuple(tuple(pair[i] for pair in side) for side in (up, down)) for i in (0, 1))
    experts = moe.pack_experts(x, *packed)
    assert experts is not None, "not packed"
    loop = reference.pack_experts(x, *exact)
    wide = loop.forward(x.double(), logits.double(), Routing(4), "gpt_oss")
    return (run(experts.forward, x, logits, Routing(4), "gpt_oss"),), (wide,)


def _mxfp4(
    outputs: int, inputs: int, seed: int, dtype: torch.dtype
) -> tuple[PackedLinear, PackedLinear]:
    """A layer with bias, and the same in float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (outputs, inputs // 32)
    blocks = torch.randint(0, 256, (*shape, 16), generator=generator).byte().to(DEVICE)
    scales = torch.randint(118, 122, shape, generator=generator).byte().to(DEVICE)
    bias = randn(outputs, seed=seed, dtype=dtype)
    values = torch.tensor(E2M1, device=DEVICE).double()[mxfp4_codes(blocks).int()]
    powers: Tensor = 2.0 ** (scales.double() - 127)
    weight = values * powers.repeat_interleave(32, 1)
    exact = TorchDense(inputs, outputs, (weight,), bias.double())
    return quantized.pack_mxfp4(blocks, scales, bias, dtype), exact

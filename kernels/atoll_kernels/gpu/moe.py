"""A mixture of experts: routing, grouping and two grouped products, none of it on the host."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from atoll_kernels.gpu import launch
from atoll_kernels.gpu.activation import gated_activation
from atoll_kernels.gpu.kernels.matmul import matmul_kernel
from atoll_kernels.gpu.kernels.routing import group_kernel, route_kernel
from atoll_kernels.gpu.quantized import LAYOUTS, tile
from atoll_kernels.linear import PackedLinear
from atoll_kernels.moe import PackedExperts

_BLOCK_T = 16
_CHUNK = 128


def pack_experts(
    first: Tensor, gate_up: tuple[PackedLinear, ...], down: tuple[PackedLinear, ...]
) -> PackedExperts | None:
    """See ``atoll_kernels.pack_experts``; declines layers of two kinds, with a bias or an order."""
    sides = (gate_up, down)
    layouts = {(layer.layout, layer.extra.get("group")) for side in sides for layer in side}
    bits = {"torch": 16, **LAYOUTS}.get(gate_up[0].layout)
    if len(layouts) > 1 or bits is None or any(not _is_plain(x) for side in sides for x in side):
        return None
    # Tiles of weights are cut so that they divide this: 0 is divided by all.
    group = gate_up[0].extra.get("group", 0)
    if bits == 8:
        group = math.gcd(gate_up[0].in_features, down[0].in_features)
    return PackedExperts("gpu", (), _stack(gate_up), _stack(down), bits, group)


def mixture_of_experts(
    x: Tensor, router_logits: Tensor, experts: PackedExperts, top_k: int, activation: str
) -> Tensor | None:
    """See ``atoll_kernels.mixture_of_experts``."""
    num_tokens, hidden = x.shape
    if experts.layout != "gpu" or x.stride(-1) != 1 or router_logits.stride(-1) != 1:
        return None
    if num_tokens == 0:
        return x.new_empty((0, hidden))
    num_experts, num_slots = router_logits.shape[1], num_tokens * top_k
    chosen, shares = route(router_logits, top_k)
    config = tile("experts", x, num_slots // num_experts, experts.group)
    # The worst case: every expert's last tile holds a single row.
    num_tiles = min(num_slots, num_experts) + num_slots // config.block_m
    grouping = torch.empty(num_tiles * (config.block_m + 2), dtype=torch.int32, device=x.device)
    tile_experts, tile_rows = grouping[:num_tiles], grouping[num_tiles : 2 * num_tiles]
    slots = grouping[2 * num_tiles :]
    group_kernel[(1,)](
        slots, tile_experts, tile_rows, chosen, num_slots, num_experts, num_tiles,
        BLOCK_M=config.block_m, BLOCK_E=triton.next_power_of_2(max(num_experts, 8)), CHUNK=_CHUNK,
        num_warps=4,
    )  # fmt: skip
    plan = (slots, tile_experts, tile_rows)
    gate_up = _product(x, experts.gate_up, plan, config, num_slots, top_k, experts, None)
    gated = gated_activation(gate_up, activation)
    if gated is None:
        return None
    down = _product(gated, experts.down, plan, config, num_slots, 1, experts, shares)
    return down.view(num_tokens, top_k, hidden).sum(1)


def route(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The chosen experts, int32, and their shares, float32; both (tokens * top_k,)."""
    num_tokens, num_experts = logits.shape
    chosen = torch.empty(num_tokens * top_k, dtype=torch.int32, device=logits.device)
    shares = torch.empty(num_tokens * top_k, dtype=torch.float32, device=logits.device)
    route_kernel[(triton.cdiv(num_tokens, _BLOCK_T),)](
        chosen, shares, logits, num_tokens, num_experts, logits.stride(0), TOP_K=top_k,
        BLOCK_T=_BLOCK_T, BLOCK_E=triton.next_power_of_2(max(num_experts, 8)),
        BLOCK_K=triton.next_power_of_2(top_k), num_warps=2,
    )  # fmt: skip
    return chosen, shares


def _is_plain(layer: PackedLinear) -> bool:
    return layer.bias is None and layer.extra.get("order") is None


def _stack(layers: tuple[PackedLinear, ...]) -> tuple[Tensor, ...]:
    """One stack per kind of tensor; each layer keeps a view, so that its own copy is freed."""
    stacks = tuple(torch.stack(parts) for parts in zip(*(x.tensors for x in layers), strict=True))
    for index, layer in enumerate(layers):
        layer.tensors = tuple(stack[index] for stack in stacks)
    return stacks


def _product(
    x: Tensor, weights: tuple[Tensor, ...], plan: tuple[Tensor, Tensor, Tensor],
    config: launch.Launch, num_slots: int, divide: int, experts: PackedExperts,
    shares: Tensor | None,
) -> Tensor:  # fmt: skip
    """(num_slots, out): slot s is row s // divide of x through its expert."""
    words, rest = weights[0], weights[1:]
    bits = experts.bits
    num_inputs, num_outputs = x.shape[1], words.shape[1] if bits == 16 else words.shape[2]
    scales, zeros = rest if len(rest) == 2 else (*rest, *rest) if rest else (x, x)
    out = torch.empty((num_slots, num_outputs), dtype=x.dtype, device=x.device)
    matmul_kernel[(triton.cdiv(num_outputs, config.block_n), plan[1].shape[0], 1)](
        out, x, words, scales, zeros, words, out, *plan, x if shares is None else shares,
        num_slots, num_outputs, num_inputs, max(experts.group, 1), x.stride(0),
        words.stride(0), scales.stride(0) if rest else 0, divide, EXPERTS=True, ORDER=False,
        BIAS=False, SHARES=shares is not None, CODE=0, BITS=bits,
        HALF=x.dtype == torch.float16, SPLITS=1, PRECISION=launch.precision(x.dtype),
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_K=config.block_k,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return out

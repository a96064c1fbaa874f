"""Mixture of experts without the host: routing, grouping by expert, and two grouped products."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from atoll_kernels.gpu import launch
from atoll_kernels.gpu.activation import gated_activation
from atoll_kernels.gpu.kernels.matmul import matmul_kernel
from atoll_kernels.gpu.kernels.routing import group_kernel, route_kernel
from atoll_kernels.gpu.quantized import GpuDense, GpuQuantized, tile
from atoll_kernels.gpu.tiles import Launch
from atoll_kernels.linear import PackedLinear
from atoll_kernels.moe import PackedExperts, Routing
from atoll_kernels.reference import route as torch_route

_BLOCK_T = 16
_CHUNK = 128


def pack_experts(
    first: Tensor, gate_up: tuple[PackedLinear, ...], down: tuple[PackedLinear, ...]
) -> PackedExperts | None:
    """See ``atoll_kernels.pack_experts``; declines mixed layouts and unsorted inputs."""
    layers = [layer for layer in (*gate_up, *down) if isinstance(layer, (GpuDense, GpuQuantized))]
    if len(layers) < len(gate_up) + len(down) or len({type(layer) for layer in layers}) > 1:
        return None
    if any(getattr(layer, "order", None) is not None for layer in layers):
        return None
    if any(len({x.bias is None for x in side}) > 1 for side in (gate_up, down)):
        return None
    groups, first_layer = {layer.group for layer in layers}, layers[0]
    if first_layer.bits == 4 and not first_layer.is_fp4 and len(groups) > 1:
        return None
    # The depth of tiles must divide the group; everything divides 0.
    return StackedExperts(
        _stack(gate_up), _stack(down), _stack_biases(gate_up), _stack_biases(down),
        first_layer.bits, first_layer.is_fp4, math.gcd(*groups),
    )  # fmt: skip


@dataclass(eq=False)
class StackedExperts(PackedExperts):
    """Weights stacked along a first dimension; see ``GpuDense`` and ``GpuQuantized``.

    gate_up_bias, down_bias: (num_experts, features). bits: 16 for dense weights of any dtype.
    is_fp4: see ``GpuQuantized``. group: the number of inputs that share a scale, or a common
    divisor if layers differ.
    """

    gate_up: tuple[Tensor, ...]
    down: tuple[Tensor, ...]
    gate_up_bias: Tensor | None
    down_bias: Tensor | None
    bits: int
    is_fp4: bool
    group: int

    def forward(
        self,
        x: Tensor,
        router_logits: Tensor,
        routing: Routing,
        activation: str,
        correction: Tensor | None = None,
        expert_scales: Tensor | None = None,
    ) -> Tensor:
        """See ``atoll_kernels.mixture_of_experts``."""
        num_tokens, hidden = x.shape
        if num_tokens == 0:
            return x.new_empty((0, hidden))
        x = x if x.stride(-1) == 1 else x.contiguous()
        asked = router_logits, routing, correction, expert_scales
        chosen, shares = route(*asked) or torch_route(*asked)
        chosen, shares, top_k = chosen.flatten(), shares.flatten(), routing.top_k
        num_experts, num_slots = router_logits.shape[1], num_tokens * top_k
        op = "mxfp4" if self.is_fp4 else "experts"
        config = tile(op, x, num_slots // num_experts, self.group)
        plan = _grouped(chosen, num_experts, config)
        gate_up = self._product(x, self.gate_up, self.gate_up_bias, plan, config, top_k, None)
        gated = gated_activation(gate_up, activation)
        assert gated is not None, "contiguous, and no float64"
        down = self._product(gated, self.down, self.down_bias, plan, config, 1, shares)
        return down.view(num_tokens, top_k, hidden).sum(1)

    def _product(
        self, x: Tensor, weights: tuple[Tensor, ...], bias: Tensor | None, plan: _Plan,
        config: Launch, divide: int, shares: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """(num_slots, out): row s // divide of x times the expert of slot s."""
        words, rest = weights[0], weights[1:]
        num_inputs = x.shape[1]
        num_outputs, num_slots = words.shape[1 if self.bits == 16 else 2], x.shape[0] * divide
        scales, zeros = rest if len(rest) == 2 else (*rest, *rest) if rest else (x, x)
        out = torch.empty((num_slots, num_outputs), dtype=x.dtype, device=x.device)
        num_tiles = plan.tile_experts.shape[0]
        matmul_kernel[(triton.cdiv(num_outputs, config.block_n), num_tiles, 1)](
            out=out, x=x, words=words, scales=scales, zeros=zeros, order=words,
            bias=out if bias is None else bias, slots=plan.slots, tile_experts=plan.tile_experts,
            tile_rows=plan.tile_rows, shares=x if shares is None else shares,
            num_rows=num_slots, num_columns=num_outputs, num_inputs=num_inputs,
            group=max(self.group, 1), x_stride=x.stride(0), words_stride=words.stride(0),
            scales_stride=scales.stride(0) if rest else 0,
            divide=divide, EXPERTS=True, ORDER=False, BIAS=bias is not None,
            SHARES=shares is not None, CODE=0, BITS=self.bits, FP4=self.is_fp4,
            HALF=x.dtype == torch.float16, SPLITS=1, PRECISION=launch.precision(x.dtype),
            BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_K=config.block_k,
            num_warps=config.num_warps, num_stages=config.num_stages,
        )  # fmt: skip
        return out


def route(
    logits: Tensor,
    routing: Routing,
    correction: Tensor | None,
    expert_scales: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """See ``atoll_kernels.route``; declines all but plain softmax, which torch computes."""
    if not routing.is_plain or correction is not None:
        return None
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    (num_tokens, num_experts), top_k = logits.shape, routing.top_k
    chosen = torch.empty((num_tokens, top_k), dtype=torch.int32, device=logits.device)
    shares = torch.empty((num_tokens, top_k), dtype=torch.float32, device=logits.device)
    route_kernel[(triton.cdiv(num_tokens, _BLOCK_T),)](
        chosen=chosen, shares=shares, logits=logits, num_tokens=num_tokens,
        num_experts=num_experts, stride=logits.stride(0), TOP_K=top_k,
        RENORMALIZE=routing.renormalize, BLOCK_T=_BLOCK_T,
        BLOCK_E=triton.next_power_of_2(max(num_experts, 8)),
        BLOCK_K=triton.next_power_of_2(top_k), num_warps=2,
    )  # fmt: skip
    return chosen, shares if expert_scales is None else shares * expert_scales[chosen]


class _Plan(NamedTuple):
    """The expert and rows of each tile: see ``group_kernel``."""

    slots: Tensor
    tile_experts: Tensor
    tile_rows: Tensor


def _grouped(chosen: Tensor, num_experts: int, config: Launch) -> _Plan:
    """chosen: (num_slots,) int32, the expert of each slot."""
    num_slots, block_m = len(chosen), config.block_m
    # The worst case: every expert's last tile has a single row.
    num_tiles = min(num_slots, num_experts) + num_slots // block_m
    memory = torch.empty(num_tiles * (block_m + 2), dtype=torch.int32, device=chosen.device)
    tile_experts, tile_rows, slots = memory.split([num_tiles, num_tiles, num_tiles * block_m])
    group_kernel[(1,)](
        slots=slots, tile_experts=tile_experts, tile_rows=tile_rows, chosen=chosen,
        num_slots=num_slots, num_experts=num_experts, num_tiles=num_tiles, BLOCK_M=block_m,
        BLOCK_E=triton.next_power_of_2(max(num_experts, 8)), CHUNK=_CHUNK, num_warps=4,
    )  # fmt: skip
    return _Plan(slots, tile_experts, tile_rows)


def _stack_biases(layers: tuple[PackedLinear, ...]) -> Tensor | None:
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return torch.stack(biases) if biases else None


def _stack(layers: tuple[PackedLinear, ...]) -> tuple[Tensor, ...]:
    """Stacks each kind of tensor; layers keep views of the stacks, which frees their own copies."""
    stacks = tuple(torch.stack(parts) for parts in zip(*(x.tensors for x in layers), strict=True))
    for index, layer in enumerate(layers):
        layer.tensors = tuple(stack[index] for stack in stacks)
    return stacks

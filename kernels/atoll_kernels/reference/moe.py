"""Mixture of experts in plain torch, one expert after the other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from atoll_kernels.linear import PackedLinear
from atoll_kernels.moe import PackedExperts, Routing

# Of shares that are made to sum to one: sigmoids may all be 0.
_LEAST_SUM = 1e-20


def route(
    logits: Tensor,
    routing: Routing,
    correction: Tensor | None,
    expert_scales: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    wide = logits.float()
    scores = wide.softmax(-1) if routing.scores == "softmax" else wide.sigmoid()
    ranked = scores if correction is None else scores + correction
    if routing.num_groups > 1:
        ranked = _of_best_groups(ranked, routing)
    chosen = ranked.topk(routing.top_k).indices
    shares = scores.gather(-1, chosen)
    if routing.renormalize:
        shares = shares / (shares.sum(-1, keepdim=True) + _LEAST_SUM)
    shares = shares * routing.scaling
    return chosen.int(), shares if expert_scales is None else shares * expert_scales[chosen]


def _of_best_groups(ranked: Tensor, routing: Routing) -> Tensor:
    """``ranked`` (tokens, num_experts), with -inf for experts of other groups."""
    groups = ranked.view(len(ranked), routing.num_groups, -1)
    values = groups.topk(routing.best_of_group).values.sum(-1)
    best = values.topk(routing.top_groups).indices
    is_other = torch.ones_like(values, dtype=torch.bool).scatter(-1, best, False)
    return groups.masked_fill(is_other.unsqueeze(-1), float("-inf")).flatten(-2)


def pack_experts(
    first: Tensor, gate_up: tuple[PackedLinear, ...], down: tuple[PackedLinear, ...]
) -> PackedExperts:
    return ExpertLoop(tuple(zip(gate_up, down, strict=True)))


@dataclass(eq=False)
class ExpertLoop(PackedExperts):
    """layers: gate_up and down of each expert."""

    layers: tuple[tuple[PackedLinear, PackedLinear], ...]
    reads_on_host = True

    def forward(
        self,
        x: Tensor,
        router_logits: Tensor,
        routing: Routing,
        activation: str,
        correction: Tensor | None = None,
        expert_scales: Tensor | None = None,
    ) -> Tensor:
        chosen, shares = route(router_logits, routing, correction, expert_scales)
        shares = shares.to(x.dtype)
        # Sorting makes each expert's rows one slice, with a single copy to the host per layer.
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=len(self.layers)).tolist()
        rows = order // routing.top_k
        weights = shares.flatten()[order].unsqueeze(1)
        out = torch.zeros_like(x)
        start = 0
        for (gate_up, down), count in zip(self.layers, counts, strict=True):
            if count:
                mine = slice(start, start + count)
                hidden = gate_up.gated(x[rows[mine]], activation)
                out.index_add_(0, rows[mine], down.forward(hidden) * weights[mine])
                start += count
        return out

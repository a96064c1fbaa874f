"""Mixture of experts in plain torch, one expert after the other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from atoll_kernels.linear import PackedLinear
from atoll_kernels.moe import PackedExperts


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
        top_k: int,
        activation: str,
        renormalize: bool = True,
    ) -> Tensor:
        shares, chosen = router_logits.float().softmax(-1).topk(top_k)
        if renormalize:
            shares = shares / shares.sum(-1, keepdim=True)
        shares = shares.to(x.dtype)
        # Sorting makes each expert's rows one slice, with a single copy to the host per layer.
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=len(self.layers)).tolist()
        rows = order // top_k
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

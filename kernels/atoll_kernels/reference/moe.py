"""A mixture of experts in plain torch, one expert after the other."""

import torch
from torch import Tensor

from atoll_kernels.linear import PackedLinear, gated_linear, linear
from atoll_kernels.moe import PackedExperts


def pack_experts(
    first: Tensor, gate_up: tuple[PackedLinear, ...], down: tuple[PackedLinear, ...]
) -> PackedExperts:
    return PackedExperts("loop", tuple(zip(gate_up, down, strict=True)))


def mixture_of_experts(
    x: Tensor, router_logits: Tensor, experts: PackedExperts, top_k: int, activation: str
) -> Tensor | None:
    if experts.layout != "loop":
        return None
    shares, chosen = router_logits.float().softmax(-1).topk(top_k)
    shares = (shares / shares.sum(-1, keepdim=True)).to(x.dtype)
    # Sorted by expert, each expert's rows are one slice: a single copy to the host per layer.
    order = chosen.flatten().argsort(stable=True)
    counts = torch.bincount(chosen.flatten(), minlength=len(experts.layers)).tolist()
    rows = order // top_k
    weights = shares.flatten()[order].unsqueeze(1)
    out = torch.zeros_like(x)
    start = 0
    for (gate_up, down), count in zip(experts.layers, counts, strict=True):
        if count:
            mine = slice(start, start + count)
            hidden = gated_linear(x[rows[mine]], gate_up, activation)
            out.index_add_(0, rows[mine], linear(hidden, down) * weights[mine])
            start += count
    return out

"""A mixture of experts: every token goes through the ``top_k`` gated MLPs that its router picks.

Knows the routing and the sum, not the experts' names in a checkpoint.
"""

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers.linear import Linear


class Expert(nn.Module):
    """A gated MLP."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.gate_up = Linear(hidden_size, 2 * intermediate_size, bias=False)
        self.down = Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden)."""
        out: Tensor = self.down(kernels.gated_activation(self.gate_up(x), self.activation))
        return out


class MixtureOfExperts(nn.Module):
    """Softmax over all experts in float32, the best ``top_k``, their weights made to sum to one."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        num_experts: int,
        top_k: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.router = Linear(hidden_size, num_experts, bias=False, quantizable=False)
        self.experts = nn.ModuleList(
            Expert(hidden_size, intermediate_size, activation) for _ in range(num_experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden)."""
        shares, chosen = self.router(x).float().softmax(-1).topk(self.top_k)
        shares = (shares / shares.sum(-1, keepdim=True)).to(x.dtype)
        # Sorted by expert, each expert's rows are one slice: a single copy to the host per layer.
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts)).tolist()
        rows = order // self.top_k
        weights = shares.flatten()[order].unsqueeze(1)
        out = torch.zeros_like(x)
        start = 0
        for expert, count in zip(self.experts, counts, strict=True):
            if count:
                mine = slice(start, start + count)
                out.index_add_(0, rows[mine], expert(x[rows[mine]]) * weights[mine])
                start += count
        return out

"""A mixture of experts that are plain MLPs: every token goes through the few that its router picks.

``layers.moe`` has gated ones, whose kernels take all experts at once; here one runs after another.
"""

from typing import Any

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers import parallel
from atoll.layers.expert_rows import rows_of_experts
from atoll.layers.linear import Linear
from atoll.layers.mlp import MLP
from atoll.layers.moe import Float32Router


class MLPMixture(nn.Module):
    """The experts that ``routing`` chooses, and a shared one that every token goes through.

    Where several ranks split it, each has some of the features of every expert, and gives partial
    sums.
    """

    # How many tokens an expert has.
    reads_on_host = True

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        num_experts: int,
        routing: kernels.Routing,
        activation: str,
        *,
        router: Float32Router,
        shared: nn.Module,
        latent_size: int | None = None,
    ) -> None:
        """latent_size: features that tokens are projected to for the experts, but not for the
        shared one, and their sum from; None: the experts have all.
        """
        super().__init__()
        self.num_experts, self.routing, self.activation = num_experts, routing, activation
        self.router, self.shared = router, shared
        width = hidden_size if latent_size is None else latent_size
        self.enter = self.leave = None
        if latent_size is not None:
            self.enter = Linear(hidden_size, latent_size, bias=False)
            self.leave = Linear(latent_size, hidden_size, bias=False)
        self.experts = nn.ModuleList(
            MLP(width, intermediate_size, activation, bias=False)
            for _ in range(parallel.num_made(num_experts))
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden)."""
        chosen, shares = kernels.route(self.router(x), self.routing, self.router.correction)
        inputs: Tensor = x if self.enter is None else self.enter(x)
        found = self._chosen(inputs, chosen, shares.to(x.dtype))
        shared: Tensor = self.shared(x)
        return shared + (found if self.leave is None else self.leave(found))

    def _chosen(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """The sum over each token's experts; chosen, shares: (tokens, top_k)."""
        out = torch.zeros_like(x)
        experts: list[Any] = list(self.experts)
        for index, rows, weights in rows_of_experts(chosen, shares, self.num_experts):
            inner = _apply(experts[index].up, x[rows], rows, self.activation)
            found = _apply(experts[index].down, inner, rows, None)
            out.index_add_(0, rows, found * weights)
        return out


def _apply(layer: nn.Module, x: Tensor, tokens: Tensor, activation: str | None) -> Tensor:
    """An adapter must know which tokens of the batch it sees."""
    known: dict[str, Tensor] = {} if isinstance(layer, Linear) else {"tokens": tokens}
    out: Tensor = layer(x, activation, **known)
    return out

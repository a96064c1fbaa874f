"""A mixture of experts that are not gated: every token goes through the few that its router picks.

``layers.moe`` has gated ones, whose kernels take all experts at once.
"""

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers.expert_rows import rows_of_experts
from atoll.layers.linear import Linear
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions


class StackedExperts(nn.Module):
    """``down(activation(up(x)))`` of each expert, and one bias for the sum of all.

    The file has the matrices of all experts one below the other, both (num_experts * inner,
    hidden): ``mlp.w1`` is applied transposed, ``mlp.w2`` as it is.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, num_experts: int) -> None:
        super().__init__()
        self.hidden_size, self.inner, self.num_experts = hidden_size, intermediate_size, num_experts
        # What is loaded; the matrices are packed.
        self.weight = nn.Parameter(
            torch.empty(2 * num_experts * intermediate_size, hidden_size), requires_grad=False
        )
        self.bias = nn.Parameter(torch.empty(hidden_size), requires_grad=False)
        self.packed: list[tuple[kernels.PackedLinear, kernels.PackedLinear]] = []

    def expert(self, index: int, x: Tensor, activation: str) -> Tensor:
        """x: (rows, hidden) -> (rows, hidden), without the bias."""
        up, down = self.packed[index]
        return kernels.linear(kernels.linear(x, up, activation), down, None)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads and packs the matrices; errors as in ``LayerTensors.get``."""
        shape = (self.num_experts * self.inner, self.hidden_size)
        first, second = (
            group.get(f"mlp.{name}", shape).view(self.num_experts, self.inner, -1)
            for name in ("w1", "w2")
        )
        bias = group.get("bias", (self.hidden_size,)).to(options.device, options.dtype)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.packed = [
            (_pack(up, options), _pack(down.t(), options))
            for up, down in zip(first, second, strict=True)
        ]
        del self.weight

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Experts are never tied."""
        raise AssertionError("experts cannot be tied")


class PlainMixture(nn.Module):
    """The weighted sum over each token's experts, plus a bias."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        num_experts: int,
        routing: kernels.Routing,
        activation: str,
    ) -> None:
        super().__init__()
        self.routing, self.activation = routing, activation
        self.router = Linear(hidden_size, num_experts, bias=False, quantizable=False)
        self.experts = StackedExperts(hidden_size, intermediate_size, num_experts)

    def forward(self, x: Tensor) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden)."""
        chosen, shares = kernels.route(self.router(x), self.routing)
        count, out = self.experts.num_experts, torch.zeros_like(x)
        for index, rows, weights in rows_of_experts(chosen, shares.to(x.dtype), count):
            found = self.experts.expert(index, x[rows], self.activation)
            out.index_add_(0, rows, found * weights)
        return out + self.experts.bias


def _pack(weight: Tensor, options: LoadOptions) -> kernels.PackedLinear:
    weight = weight.to(options.device, options.dtype).contiguous()
    return kernels.pack_linear(weight, None, options.scheme, options.group_size)

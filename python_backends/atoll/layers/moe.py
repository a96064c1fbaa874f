"""A mixture of experts: every token goes through the few gated MLPs that its router picks.

Knows which layers an expert has, and whether an adapter changes them; the routing and the sum are
the kernels'.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers import parallel
from atoll.layers.adapted import AdaptedLinear
from atoll.layers.factors import Factors
from atoll.layers.linear import Linear
from atoll.layers.mlp import GatedMLP
from atoll.layers.norm import UnitNorm
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions

_CORRECTION = "e_score_correction_bias"


class Expert(GatedMLP):
    """A gated MLP that is told which tokens of the batch it sees."""

    def adapted_rows(self, num_rows: int, device: torch.device) -> list[Tensor]:
        """The batch's rows that adapters change in layers which were wrapped after loading."""
        both: tuple[nn.Module, ...] = (self.gate_up, self.down)
        layers = [layer for layer in both if isinstance(layer, AdaptedLinear)]
        found = (layer.adapted_rows(num_rows, device) for layer in layers)
        return [rows for rows in found if rows is not None]

    def of_tokens(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x: (rows, hidden), of the batch's tokens (rows,) int64 -> (rows, hidden)."""
        known: dict[str, Tensor] = {} if isinstance(self.gate_up, Linear) else {"tokens": tokens}
        return _apply(self.down, self.gate_up.gated(x, self.activation, **known), tokens)


class GatedExpert(GatedMLP):
    """A shared expert whose output is weighted by the sigmoid of a projection of its input."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str) -> None:
        super().__init__(hidden_size, intermediate_size, activation)
        self.weight = Linear(hidden_size, 1, bias=False, quantizable=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden)."""
        weight: Tensor = self.weight(x).sigmoid()
        return weight * super().forward(x)


class Float32Router(Linear):
    """The logits of all experts in float32, whatever the model's dtype.

    Rounded logits would choose other experts than the model was trained with.
    """

    is_adaptable = False

    def __init__(self, hidden_size: int, num_experts: int, is_corrected: bool = False) -> None:
        """is_corrected: whether the checkpoint has corrections, see ``kernels.route``."""
        super().__init__(hidden_size, num_experts, bias=False, quantizable=False)
        self.correction: Tensor | None = None
        if is_corrected:
            self.correction = nn.Parameter(torch.empty(num_experts), requires_grad=False)

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """x: (tokens, hidden) -> (tokens, num_experts) float32."""
        return super().forward(x.float(), activation)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """As ``Linear.load``, and the corrections."""
        options = replace(options, dtype=torch.float32)
        super().load(group, options)
        if self.correction is None:
            group.refuse(_CORRECTION)
            return
        found = group.get(_CORRECTION, (self.out_features,)).to(options.device, options.dtype)
        self.correction = nn.Parameter(found, requires_grad=False)


class NormedRouter(nn.Module):
    """Norms what it sees by a scale of its own, and scales the experts' shares (Gemma 4)."""

    def __init__(self, hidden_size: int, num_experts: int, eps: float) -> None:
        super().__init__()
        self.norm = UnitNorm(hidden_size, eps)
        self.scale = Factors("scale", hidden_size)
        self.proj = Linear(hidden_size, num_experts, bias=False, quantizable=False)
        self.expert_scales = Factors("per_expert_scale", num_experts, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """x: (tokens, hidden) -> (tokens, num_experts)."""
        logits: Tensor = self.proj(self.norm(x) * self.scale() * x.shape[1] ** -0.5)
        return logits


class MixtureOfExperts(nn.Module):
    """The experts that ``routing`` chooses, and a shared one that every token goes through."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        num_experts: int,
        routing: kernels.Routing,
        activation: str,
        *,
        router: nn.Module | None = None,
        shared: nn.Module | None = None,
        bias: bool = False,
        block: int = 1,
    ) -> None:
        """router: (tokens, hidden) -> (tokens, num_experts); a projection in the model's dtype,
        without bias, if None. shared: the shared expert, (tokens, hidden) -> (tokens, hidden).
        bias: of the layers of every expert. block: see ``GatedMLP``.
        """
        super().__init__()
        self.num_experts = num_experts
        self.routing, self.activation, self.shared = routing, activation, shared
        if router is None:
            router = Linear(hidden_size, num_experts, bias=False, quantizable=False)
        self.router: nn.Module = router
        self.experts = nn.ModuleList(
            Expert(hidden_size, intermediate_size, activation, bias, bias, block)
            for _ in range(parallel.num_made(num_experts))
        )
        self._packed: kernels.PackedExperts | None = None

    @property
    def reads_on_host(self) -> bool:
        """Whether the host asks how many rows each expert has."""
        return self.packed.reads_on_host

    @property
    def packed(self) -> kernels.PackedExperts:
        """The experts' weights for the kernels, packed when they are first needed."""
        if self._packed is None:
            experts: list[Any] = list(self.experts)
            self._packed = kernels.pack_experts(
                [e.gate_up.packed for e in experts], [e.down.packed for e in experts]
            )
        return self._packed

    @property
    def _correction(self) -> Tensor | None:
        return self.router.correction if isinstance(self.router, Float32Router) else None

    @property
    def _scales(self) -> Tensor | None:
        return self.router.expert_scales() if isinstance(self.router, NormedRouter) else None

    def forward(self, x: Tensor, routed_by: Tensor | None = None) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden). routed_by: what the router sees, if not x."""
        chosen = self._chosen(x, self.router(x if routed_by is None else routed_by))
        return chosen if self.shared is None else chosen + self.shared(x)

    def _chosen(self, x: Tensor, logits: Tensor) -> Tensor:
        """The sum over each token's experts."""
        experts: list[Any] = list(self.experts)
        adapted = [rows for e in experts for rows in e.adapted_rows(len(x), x.device)]
        if not adapted:
            return self._mixed(x, logits)
        rows = torch.cat(adapted).unique()
        if len(rows) == len(x):
            return self._one_by_one(x, logits, rows)
        changed = self._one_by_one(x[rows], logits[rows], rows)
        return self._mixed(x, logits).index_copy(0, rows, changed)

    def _mixed(self, x: Tensor, logits: Tensor) -> Tensor:
        return kernels.mixture_of_experts(
            x, logits, self.packed, self.routing, self.activation, self._correction, self._scales
        )

    def _one_by_one(self, x: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
        """With adapters, which are no part of packed weights; x: rows ``tokens`` of the batch."""
        experts: list[Any] = list(self.experts)
        chosen, shares = kernels.route(logits, self.routing, self._correction, self._scales)
        shares = shares.to(x.dtype)
        out = torch.zeros_like(x)
        for index, expert in enumerate(experts):
            rows, places = (chosen == index).nonzero(as_tuple=True)
            if len(rows):
                weights = shares[rows, places].unsqueeze(1)
                out.index_add_(0, rows, expert.of_tokens(x[rows], tokens[rows]) * weights)
        return out


def _apply(layer: nn.Module, x: Tensor, tokens: Tensor) -> Tensor:
    """An adapter must know which tokens of the batch it sees."""
    out: Tensor = layer(x) if isinstance(layer, Linear) else layer(x, tokens=tokens)
    return out

"""RMSNorm of groups of features that a gate multiplies, before the norm or after it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers import parallel
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions
from atoll.weights.parts import Part


class GatedRMSNorm(nn.Module):
    """``norm(x * silu(gate))``, or ``norm(x) * silu(gate)`` if not ``is_gate_first``.

    Each group has a mean square of its own. Ranks that hold parts of a group add their sums.
    """

    def __init__(
        self, features: int | Part, groups: int | Part, eps: float, *, is_gate_first: bool = True
    ) -> None:
        """features, groups: those of this rank."""
        super().__init__()
        self.features, self.groups = Part.of(features), Part.of(groups)
        self.eps, self.is_gate_first = eps, is_gate_first
        self.group_size = self.features.total // self.groups.total
        self.is_shared = len(self.features) < len(self.groups) * self.group_size
        self.reduce = parallel.reduction()
        self.weight = nn.Parameter(torch.empty(len(self.features)), requires_grad=False)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """x, gate: (tokens, features) -> the same shape."""
        if self.is_shared:
            return self._of_shared_groups(x, gate)
        return kernels.grouped_rms_norm(
            x, self.weight, self.eps, self.group_size, gate, self.is_gate_first
        )

    def _of_shared_groups(self, x: Tensor, gate: Tensor) -> Tensor:
        wide, opened = x.float(), F.silu(gate.float())
        if self.is_gate_first:
            wide = wide * opened
        rows = wide.view(len(wide), len(self.groups), -1)
        sums = self._of_all_ranks(rows.square().sum(-1))
        rows = rows * torch.rsqrt(sums / self.group_size + self.eps).unsqueeze(-1)
        out = rows.flatten(1) * self.weight
        return (out if self.is_gate_first else out * opened).to(x.dtype)

    def _of_all_ranks(self, sums: Tensor) -> Tensor:
        """sums: (tokens, groups of this rank)."""
        every = sums.new_zeros(len(sums), self.groups.total)
        every[:, self.groups.span] = sums
        return self.reduce(every)[:, self.groups.span]

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads the scale; see ``LayerTensors.get`` and ``LayerTensors.bias`` for the errors."""
        kept = group.get("weight", (self.features,)).to(options.device, torch.float32)
        self.weight = nn.Parameter(kept, requires_grad=False)
        group.bias(self.features, is_expected=False)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Norms are never tied."""
        raise AssertionError("a norm cannot be tied")


class Gate(nn.Module):
    """``x * silu(gate)``, in place of a norm."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """x, gate: (tokens, features) -> the same shape."""
        return kernels.gate_rows(x, gate)

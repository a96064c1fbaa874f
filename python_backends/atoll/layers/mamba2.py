"""Mamba-2's layer (Dao & Gu 2024): a selective state space of many heads, in place of attention.

One projection makes of a token its gate z, the inputs x of all heads, B and C of each group of
heads, and a time step of each head. Where several ranks split it, each has some of the heads with
their groups, and gives partial sums.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers import parallel, recurrent
from atoll.layers.batch import Batch, StateSpec
from atoll.layers.gated_norm import Gate, GatedRMSNorm
from atoll.layers.linear import Linear
from atoll.layers.parallel import Part
from atoll.layers.short_convolution import ShortConvolution
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions


@dataclass(frozen=True)
class Mamba2Spec:
    """Sizes of a layer, all ranks together, and which of its parts have a bias.

    dt_limits: of time steps, after the softplus. norm: what is done to the outputs with the gate:
    normalised with it or before it, or multiplied by it alone.
    """

    num_heads: int
    head_dim: int
    num_groups: int
    state_size: int
    conv_width: int
    in_bias: bool = False
    conv_bias: bool = True
    out_bias: bool = False
    eps: float = 1e-5
    dt_limits: tuple[float, float] = (0.0, math.inf)
    is_normed: bool = True
    is_gate_first: bool = True

    @property
    def inner_size(self) -> int:
        """Features of all heads."""
        return self.num_heads * self.head_dim


class Mamba2(nn.Module):
    """Keeps of each sequence the convolution's last inputs, and a matrix for each head."""

    def __init__(self, hidden_size: int, spec: Mamba2Spec, *, index: int) -> None:
        """index: which of the recurrent layers it is."""
        super().__init__()
        self.spec, self.index = spec, index
        heads, groups = parallel.heads(spec.num_heads, spec.num_groups)
        inner, states = heads.times(spec.head_dim), groups.times(spec.state_size)
        self.heads, self.groups = len(heads), len(groups)
        self.sizes = (len(inner), len(states), len(states))
        self.in_proj = Linear(
            hidden_size, Part.joined(inner, inner, states, states, heads), spec.in_bias
        )
        channels = Part.joined(inner, states, states)
        self.conv = ShortConvolution(
            channels, spec.conv_width, bias=spec.conv_bias, activation="silu"
        )
        self.scan = HeadScan(heads, spec.dt_limits)
        self.norm: GatedRMSNorm | Gate = Gate()
        if spec.is_normed:
            self.norm = GatedRMSNorm(inner, groups, spec.eps, is_gate_first=spec.is_gate_first)
        self.out = Linear(inner, hidden_size, spec.out_bias)

    @property
    def state_spec(self) -> StateSpec:
        """What a sequence keeps."""
        matrices = (self.heads, self.spec.head_dim, self.spec.state_size)
        return StateSpec((self.conv.state_shape, matrices), (None, torch.float32))

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden); mutates the layer's state."""
        past, state = recurrent.past(batch), recurrent.state(batch, self.index)
        inputs, matrices = (None, None) if state is None else state
        gate, mixed, dt = self.project(x).split((self.sizes[0], sum(self.sizes), self.heads), 1)
        mixed = self.conv(mixed, inputs, past)
        values, b, c = mixed.split(self.sizes, 1)
        scanned = self.scan(
            values.unflatten(1, (self.heads, -1)), dt, b.unflatten(1, (self.groups, -1)),
            c.unflatten(1, (self.groups, -1)), matrices, past,
        )  # fmt: skip
        out: Tensor = self.out(self.norm(scanned.flatten(1), gate))
        return out

    def project(self, x: Tensor) -> Tensor:
        """x: (tokens, hidden) -> [gate; x; B; C; dt] of each token."""
        out: Tensor = self.in_proj(x)
        return out


class HeadScan(nn.Module):
    """The scan with what it knows of each head: decay, skip and bias of the time step, float32."""

    def __init__(self, heads: int | Part, dt_limits: tuple[float, float]) -> None:
        """heads: those of this rank."""
        super().__init__()
        self.heads, self.dt_limits = Part.of(heads), dt_limits
        for name in ("A", "D", "dt_bias"):
            empty = nn.Parameter(torch.empty(len(self.heads)), requires_grad=False)
            self.register_parameter(name, empty)

    def forward(
        self, x: Tensor, dt: Tensor, b: Tensor, c: Tensor, state: Tensor | None, past: kernels.Past
    ) -> Tensor:
        """dt: (tokens, heads), as projected; see ``kernels.selective_scan2`` for the others."""
        steps = kernels.time_steps(dt, self.dt_bias, self.dt_limits)
        return kernels.selective_scan2(x, steps, self.A, b, c, self.D, state, past)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads ``A_log``, ``D`` and ``dt_bias``; errors as in ``LayerTensors.get``."""
        found = {
            name: group.get(name, (self.heads,)).to(options.device, torch.float32)
            for name in ("A_log", "D", "dt_bias")
        }
        self.A = nn.Parameter(-found["A_log"].exp(), requires_grad=False)
        self.D = nn.Parameter(found["D"], requires_grad=False)
        self.dt_bias = nn.Parameter(found["dt_bias"], requires_grad=False)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """A scan is never tied."""
        raise AssertionError("a scan cannot be tied")

"""Mamba-1's layer (Gu & Dao 2023): a selective state space for each channel, in place of attention.

Where several ranks split it, each has some of the channels: what all channels say of a token's time
steps, B and C is added before it is used, and the outputs are partial sums.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers import parallel, recurrent
from atoll.layers.batch import Batch, StateSpec
from atoll.layers.linear import Linear
from atoll.layers.parallel import Part
from atoll.layers.short_convolution import ShortConvolution
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions


@dataclass(frozen=True)
class MambaSpec:
    """Sizes of a layer, all ranks together, and which of its parts have a bias.

    dt_rank: features that the time steps of all channels are made from. norm_eps: of a norm without
    scale of these, of B and of C (Falcon-Mamba); None: they are used as they are.
    """

    inner_size: int
    state_size: int
    conv_width: int
    dt_rank: int
    bias: bool
    conv_bias: bool
    norm_eps: float | None = None


class Mamba(nn.Module):
    """Keeps of each sequence the convolution's last inputs, and a vector for each channel."""

    def __init__(self, hidden_size: int, spec: MambaSpec, *, index: int) -> None:
        """index: which of the recurrent layers it is."""
        super().__init__()
        self.spec, self.index = spec, index
        inner = parallel.part(spec.inner_size, "channels")
        self.in_proj = Linear(hidden_size, Part.joined(inner, inner), spec.bias)
        self.conv = ShortConvolution(inner, spec.conv_width, bias=spec.conv_bias, activation="silu")
        self.sizes = (spec.dt_rank, spec.state_size, spec.state_size)
        self.select = Linear(inner, sum(self.sizes), bias=False)
        self.reduce = parallel.reduction()
        self.dt = TimeSteps(spec.dt_rank, inner)
        self.scan = ChannelScan(inner, spec.state_size)
        self.out = Linear(inner, hidden_size, spec.bias)

    @property
    def state_spec(self) -> StateSpec:
        """What a sequence keeps."""
        vectors = (len(self.conv.channels), self.spec.state_size)
        return StateSpec((self.conv.state_shape, vectors), (None, torch.float32))

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden); mutates the layer's state."""
        past, state = recurrent.past(batch), recurrent.state(batch, self.index)
        inputs, vectors = (None, None) if state is None else state
        values, gate = self.in_proj(x).chunk(2, 1)
        values = self.conv(values, inputs, past)
        selected: Tensor = self.reduce(self.select(values))
        dt, b, c = (self._normed(part) for part in selected.split(self.sizes, 1))
        scanned = self.scan(values, self.dt(dt), b, c, vectors, past)
        out: Tensor = self.out(kernels.gate_rows(scanned, gate))
        return out

    def _normed(self, part: Tensor) -> Tensor:
        eps = self.spec.norm_eps
        if eps is None:
            return part
        return F.rms_norm(part.float(), part.shape[-1:], eps=eps).to(part.dtype)


class TimeSteps(Linear):
    """The time step of every channel, in float32: rounded ones would decay at another speed."""

    is_adaptable = False

    def __init__(self, rank: int, channels: int | Part) -> None:
        super().__init__(rank, channels, quantizable=False)

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """x: (tokens, rank) -> (tokens, channels) float32, 0 or more."""
        return kernels.time_steps(super().forward(x.float(), activation))

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """As ``Linear.load``."""
        super().load(group, replace(options, dtype=torch.float32))


class ChannelScan(nn.Module):
    """The scan with what it knows of each channel: decays and skip, float32."""

    def __init__(self, channels: int | Part, state_size: int) -> None:
        """channels: those of this rank."""
        super().__init__()
        self.channels = Part.of(channels)
        shape = (len(self.channels), state_size)
        self.A = nn.Parameter(torch.empty(shape), requires_grad=False)
        self.D = nn.Parameter(torch.empty(shape[0]), requires_grad=False)

    def forward(
        self, x: Tensor, dt: Tensor, b: Tensor, c: Tensor, state: Tensor | None, past: kernels.Past
    ) -> Tensor:
        """See ``kernels.selective_scan``."""
        return kernels.selective_scan(x, dt, self.A, b, c, self.D, state, past)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads ``A_log`` and ``D``; errors as in ``LayerTensors.get``."""
        decays = group.get("A_log", (self.channels, self.A.shape[1]))
        skip = group.get("D", (self.channels,))
        decays, skip = (x.to(options.device, torch.float32) for x in (decays, skip))
        self.A = nn.Parameter(-decays.exp(), requires_grad=False)
        self.D = nn.Parameter(skip, requires_grad=False)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """A scan is never tied."""
        raise AssertionError("a scan cannot be tied")

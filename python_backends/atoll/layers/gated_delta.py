"""Gated DeltaNet (Yang et al. 2025, arXiv 2412.06464): linear attention whose state is a matrix."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers import parallel
from atoll.layers.batch import Batch, StateSpec
from atoll.layers.linear import Linear
from atoll.layers.parallel import Part
from atoll.layers.recurrent import past, state
from atoll.layers.short_convolution import ShortConvolution
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions

# Added to the squares of a query's or key's features.
_EPS = 1e-6


class DeltaHeads(NamedTuple):
    """Heads of queries and keys, each for num_value / num_key of values, and their features."""

    num_key: int
    num_value: int
    key_dim: int
    value_dim: int

    @property
    def key_width(self) -> int:
        """Features of all keys, or of all queries."""
        return self.num_key * self.key_dim

    @property
    def value_width(self) -> int:
        """Features of all values."""
        return self.num_value * self.value_dim


class GatedDeltaNet(nn.Module):
    """q, k and v go through a convolution; what comes out is normed and gated, head by head.

    ``qkvz`` gives [q; k; v; z], ``ba`` the [write strengths; decays] of value heads.

    Where several ranks split it, each has some of the heads, and gives partial sums.
    """

    def __init__(
        self, hidden_size: int, heads: DeltaHeads, *, index: int, conv_width: int, eps: float
    ) -> None:
        """heads: of all ranks. index: among the recurrent layers."""
        super().__init__()
        value, key = parallel.heads(heads.num_value, heads.num_key)
        self.heads = DeltaHeads(len(key), len(value), heads.key_dim, heads.value_dim)
        self.index = index
        keys, values = key.times(heads.key_dim), value.times(heads.value_dim)
        mixed = 2 * heads.key_width + heads.value_width
        self.qkvz = Linear(
            hidden_size, Part.joined(keys, keys, values, values), bias=False,
            rows=(mixed, heads.value_width),
        )  # fmt: skip
        self.ba = Linear(hidden_size, Part.joined(value, value), bias=False, quantizable=False)
        self.conv = ShortConvolution(Part.joined(keys, keys, values), conv_width, activation="silu")
        self.gates = DeltaGates(value)
        self.norm = GatedHeadNorm(heads.value_dim, eps)
        self.out = Linear(values, hidden_size, bias=False)
        self._scales: Tensor | None = None

    @property
    def state_spec(self) -> StateSpec:
        """What a sequence keeps: inputs of the convolution, and a matrix of each value head."""
        _, num_value, key_dim, value_dim = self.heads
        return StateSpec(
            (self.conv.state_shape, (num_value, key_dim, value_dim)), (None, torch.float32)
        )

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden); mutates the sequences' states."""
        num_key, num_value, key_dim, value_dim = self.heads
        where, kept = past(batch), state(batch, self.index)
        conv_state, matrix = (None, None) if kept is None else kept
        keys, values = self.heads.key_width, self.heads.value_width
        mixed, z = self.qkvz(x).split_with_sizes((2 * keys + values, values), 1)
        b, a = self.ba(x).split_with_sizes((num_value, num_value), 1)
        mixed = self.conv(mixed, conv_state, where)
        qk, v = mixed.split_with_sizes((2 * keys, values), 1)
        q, k = self._normed(qk).view(-1, 2, num_key, key_dim).unbind(1)
        log_decay, beta = self.gates(a, b)
        out = kernels.gated_delta(
            q, k, v.view(-1, num_value, value_dim), log_decay, beta, matrix, where
        )
        found: Tensor = self.out(self.norm(out.flatten(1), z))
        return found

    def _normed(self, qk: Tensor) -> Tensor:
        """Heads of length one: ``x / sqrt(sum(x^2) + eps)``; queries also divided by
        sqrt(key_dim). As RMSNorm, whose eps is added to the mean."""
        size, width = self.heads.key_dim, self.heads.key_width
        if self._scales is None:
            ones = torch.ones(width, device=qk.device)
            self._scales = torch.cat((ones / size, ones / size**0.5))
        return kernels.grouped_rms_norm(qk, self._scales, _EPS / size, size)


class DeltaGates(nn.Module):
    """``-exp(A_log) * softplus(a + dt_bias)``, the logarithm of what a state keeps in a token, and
    ``sigmoid(b)``, how strongly the token is written."""

    def __init__(self, heads: Part) -> None:
        super().__init__()
        self.heads = heads
        self.rate = nn.Parameter(torch.empty(len(heads)), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(len(heads)), requires_grad=False)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """a, b: (tokens, heads) -> both (tokens, heads) float32."""
        return kernels.delta_gates(a, b, self.rate, self.bias)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads both, in float32; errors as in ``LayerTensors.get``."""
        rate, bias = (
            group.get(name, (self.heads,)).to(options.device, torch.float32)
            for name in ("A_log", "dt_bias")
        )
        self.rate = nn.Parameter(-rate.exp(), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Gates are never tied."""
        raise AssertionError("gates cannot be tied")


class GatedHeadNorm(nn.Module):
    """``weight * rms(x) * silu(z)``, head by head."""

    def __init__(self, head_dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(head_dim), requires_grad=False)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x, z: (tokens, heads * head_dim) -> the same."""
        return kernels.grouped_rms_norm(x, self.weight, self.eps, len(self.weight), z)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads the scale; see ``LayerTensors.get`` for the errors."""
        weight = group.get("weight", (len(self.weight),)).to(options.device, options.dtype)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Norms are never tied."""
        raise AssertionError("a norm cannot be tied")

"""The feed-forward part of a block.

Where several ranks split it, each has a part of the intermediate features, and gives partial sums.
"""

from torch import Tensor, nn

from atoll.layers import parallel
from atoll.layers.linear import Linear
from atoll.layers.parallel import Part


class MLP(nn.Module):
    """``down(activation(up(x)))``."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, activation: str, bias: bool = True
    ) -> None:
        super().__init__()
        self.activation = activation
        inner = _inner(intermediate_size)
        self.up = Linear(hidden_size, inner, bias)
        self.down = Linear(inner, hidden_size, bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden)."""
        out: Tensor = self.down(self.up(x, self.activation))
        return out


class GatedMLP(nn.Module):
    """``down(activation(gate(x)) * up(x))`` (Shazeer 2020), gate and up in one projection."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: str,
        gate_bias: bool = False,
        down_bias: bool = False,
        block: int = 1,
    ) -> None:
        """block: so many intermediate features stay together on one rank."""
        super().__init__()
        self.activation = activation
        inner = _inner(intermediate_size, block)
        self.gate_up = Linear(hidden_size, Part.joined(inner, inner), gate_bias)
        self.down = Linear(inner, hidden_size, down_bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden)."""
        out: Tensor = self.down(self.gate_up.gated(x, self.activation))
        return out


def _inner(intermediate_size: int, block: int = 1) -> Part:
    return parallel.part(intermediate_size, "intermediate features", block)

"""The feed-forward part of a block."""

from torch import Tensor, nn

from atoll.layers.linear import Linear


class MLP(nn.Module):
    """``down(activation(up(x)))``."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, activation: str, bias: bool = True
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up = Linear(hidden_size, intermediate_size, bias)
        self.down = Linear(intermediate_size, hidden_size, bias)

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
    ) -> None:
        super().__init__()
        self.activation = activation
        self.gate_up = Linear(hidden_size, 2 * intermediate_size, gate_bias)
        self.down = Linear(intermediate_size, hidden_size, down_bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden)."""
        out: Tensor = self.down(self.gate_up.gated(x, self.activation))
        return out

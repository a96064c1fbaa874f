"""Blocks of one branch: ``x += branch(norm(x))``. A model alternates several kinds of them."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from atoll.layers.batch import Batch
from atoll.layers.block import States
from atoll.layers.norm import Norm
from atoll.layers.parallel import reduction


class _Sole(nn.Module, ABC):
    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.norm, self.reduce = norm, reduction()

    @abstractmethod
    def branch(self, x: Tensor, batch: Batch) -> Tensor:
        """(tokens, hidden) -> (tokens, hidden), a partial sum where several ranks split it."""

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> States:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h, residual = self.norm.add(x, residual)
        return self.reduce(self.branch(h, batch)), residual


class SoleAttention(_Sole):
    """A block that attends."""

    def __init__(self, norm: Norm, attention: nn.Module) -> None:
        super().__init__(norm)
        self.attention = attention

    def branch(self, x: Tensor, batch: Batch) -> Tensor:
        """See ``_Sole``."""
        out: Tensor = self.attention(x, batch)
        return out


class SoleMixer(_Sole):
    """A block of a recurrent layer."""

    def __init__(self, norm: Norm, mixer: nn.Module) -> None:
        super().__init__(norm)
        self.mixer = mixer

    def branch(self, x: Tensor, batch: Batch) -> Tensor:
        """See ``_Sole``."""
        out: Tensor = self.mixer(x, batch)
        return out


class SoleMLP(_Sole):
    """A block that feeds forward."""

    def __init__(self, norm: Norm, mlp: nn.Module) -> None:
        super().__init__(norm)
        self.mlp = mlp

    def branch(self, x: Tensor, batch: Batch) -> Tensor:
        """See ``_Sole``."""
        out: Tensor = self.mlp(x)
        return out

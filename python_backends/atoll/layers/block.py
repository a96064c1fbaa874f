"""The orders in which a block norms, attends and feeds forward.

Every block takes and gives ``x`` (tokens, hidden) and what is still to be added to it, so that the
sum is part of the next norm's kernel. Attention and MLP give partial sums where several ranks split
them, which ``reduce`` makes whole; it is here and not in their last layer, as adapters add to that.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from atoll.layers.batch import Batch
from atoll.layers.norm import Norm
from atoll.layers.parallel import reduction

States = tuple[Tensor, Tensor | None]


class _PreNorm(nn.Module, ABC):
    """``x += mixed(norm1(x))``, then ``x += mlp(norm2(x))``; both times ``branch_scale``."""

    def __init__(self, norm1: Norm, norm2: Norm, mlp: nn.Module, branch_scale: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = norm1, norm2, mlp
        self.branch_scale, self.reduce = branch_scale, reduction()

    @abstractmethod
    def mixed(self, x: Tensor, batch: Batch) -> Tensor:
        """What tokens learn from others; (tokens, hidden) -> (tokens, hidden)."""

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> States:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h, residual = self.norm1.add(x, residual)
        h, residual = self.norm2.add(self._whole(self.mixed(h, batch)), residual)
        return self._whole(self.mlp(h)), residual

    def _whole(self, branch: Tensor) -> Tensor:
        out = self.reduce(branch)
        return out if self.branch_scale == 1.0 else out * self.branch_scale


class PreNormBlock(_PreNorm):
    """``x += attention(norm1(x))``, then ``x += mlp(norm2(x))``; both times ``branch_scale``."""

    def __init__(
        self,
        norm1: Norm,
        attention: nn.Module,
        norm2: Norm,
        mlp: nn.Module,
        branch_scale: float = 1.0,
    ) -> None:
        super().__init__(norm1, norm2, mlp, branch_scale)
        self.attention = attention

    def mixed(self, x: Tensor, batch: Batch) -> Tensor:
        """See ``_PreNorm``."""
        out: Tensor = self.attention(x, batch)
        return out


class MixerBlock(_PreNorm):
    """A ``PreNormBlock`` with a recurrent layer, ``mixer``, in place of the attention."""

    def __init__(
        self, norm1: Norm, mixer: nn.Module, norm2: Norm, mlp: nn.Module, branch_scale: float = 1.0
    ) -> None:
        super().__init__(norm1, norm2, mlp, branch_scale)
        self.mixer = mixer

    def mixed(self, x: Tensor, batch: Batch) -> Tensor:
        """See ``_PreNorm``."""
        out: Tensor = self.mixer(x, batch)
        return out


class SandwichBlock(nn.Module):
    """``x += norm2(attention(norm1(x)))``, then ``x += norm4(mlp(norm3(x)))``."""

    def __init__(
        self, norm1: Norm, attention: nn.Module, norm2: Norm, norm3: Norm, mlp: nn.Module,
        norm4: Norm,
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm1, self.attention, self.norm2 = norm1, attention, norm2
        self.norm3, self.mlp, self.norm4 = norm3, mlp, norm4
        self.reduce = reduction()

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> States:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h, residual = self.norm1.add(x, residual)
        attended = self.norm2(self.reduce(self.attention(h, batch)))
        h, residual = self.norm3.add(attended, residual)
        return self.norm4(self.reduce(self.mlp(h))), residual


class ParallelBlock(nn.Module):
    """``x += attention(norm1(x)) + mlp(norm2(x))``; without a second norm both share the first."""

    def __init__(
        self, norm1: Norm, attention: nn.Module, norm2: Norm | None, mlp: nn.Module
    ) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = norm1, attention, norm2, mlp
        self.reduce = reduction()

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> States:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h, residual = self.norm1.add(x, residual)
        attended = self.attention(h, batch)
        h = h if self.norm2 is None else self.norm2(residual)
        return self.reduce(attended + self.mlp(h)), residual


class OutputNormBlock(nn.Module):
    """``x += norm1(attention(x))``, then ``x += norm2(mlp(x))``."""

    def __init__(self, attention: nn.Module, norm1: Norm, mlp: nn.Module, norm2: Norm) -> None:
        super().__init__()
        self.attention, self.norm1, self.mlp, self.norm2 = attention, norm1, mlp, norm2
        self.reduce = reduction()

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> States:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        x = x if residual is None else x + residual
        x = x + self.norm1(self.reduce(self.attention(x, batch)))
        return self.norm2(self.reduce(self.mlp(x))), x


class PostNormBlock(nn.Module):
    """``x = norm1(x + attention(x))``, then ``x = norm2(x + mlp(x))``: nothing is left to add."""

    def __init__(self, attention: nn.Module, norm1: Norm, mlp: nn.Module, norm2: Norm) -> None:
        super().__init__()
        self.attention, self.norm1, self.mlp, self.norm2 = attention, norm1, mlp, norm2
        self.reduce = reduction()

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> States:
        """x: (tokens, hidden) -> (tokens, hidden), None."""
        x = self.norm1(self.reduce(self.attention(x, batch)), x)
        return self.norm2(self.reduce(self.mlp(x)), x), None

"""A lookup table of token, position or segment vectors."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.layers import parallel
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions
from atoll.weights.parts import Part


class Embedding(nn.Module):
    """(num_embeddings, dim) rows, looked up by id; ``num_embeddings`` may be a rank's part.

    is_table: only few rows are read at a time, see ``weights.mapped``.
    """

    is_table = True

    def __init__(self, num_embeddings: int | Part, dim: int) -> None:
        super().__init__()
        self.rows = Part.of(num_embeddings)
        self.weight = nn.Parameter(torch.empty(len(self.rows), dim), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (tokens,) int64 -> (tokens, dim)."""
        return F.embedding(ids, self.weight)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads the table; see ``LayerTensors.get`` for the errors."""
        weight = group.get("weight", (self.rows, self.weight.shape[1]))
        self.weight = nn.Parameter(weight.to(options.device, options.dtype), requires_grad=False)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Shares another table."""
        assert isinstance(source.weight, nn.Parameter)
        self.weight = source.weight


class Sinusoids(nn.Module):
    """Vectors of positions that no file has: sines, then cosines (tensor2tensor's order)."""

    def __init__(self, num_positions: int, dim: int) -> None:
        """dim: at least 4, of which an odd one is zero."""
        super().__init__()
        self.num_positions, self.dim = num_positions, dim
        self.table: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (tokens,) int64 -> (tokens, dim)."""
        assert self.table is not None, "load() comes first"
        return F.embedding(ids, self.table)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Makes the table; raises WeightError where the file has learned positions."""
        group.refuse("weight")
        self.table = self.made().to(options.device, options.dtype)

    def made(self) -> Tensor:
        """(positions, dim) float32."""
        half = self.dim // 2
        steps = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
        angles = torch.arange(self.num_positions).float().unsqueeze(1) * steps
        return F.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, self.dim % 2))

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Positions are never tied."""
        raise AssertionError("positions cannot be tied")


class TokenEmbedding(Embedding):
    """Vectors of the vocabulary, whose rows are divided over the ranks."""

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__(parallel.vocabulary(vocab_size), dim)
        self.reduce = parallel.reduction()

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (tokens,) int64 -> (tokens, dim) on every rank."""
        if self.rows.is_whole:
            return super().forward(ids)
        held = self.rows.span
        is_others = (ids < held.start) | (ids >= held.stop)
        # Of others' words zeros, to which the sum adds their vectors.
        own = super().forward((ids - held.start).masked_fill(is_others, 0))
        return self.reduce(own.masked_fill(is_others.unsqueeze(1), 0))

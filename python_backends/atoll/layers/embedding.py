"""A lookup table of token, position or segment vectors."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions


class Embedding(nn.Module):
    """(num_embeddings, dim) rows, looked up by id."""

    def __init__(self, num_embeddings: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_embeddings, dim), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (tokens,) int64 -> (tokens, dim)."""
        return F.embedding(ids, self.weight)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads the table; see ``LayerTensors.get`` for the errors."""
        weight = group.get("weight", self.weight.shape)
        self.weight = nn.Parameter(weight.to(options.device, options.dtype), requires_grad=False)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Shares another table."""
        assert isinstance(source.weight, nn.Parameter)
        self.weight = source.weight

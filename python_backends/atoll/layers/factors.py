"""Numbers of a checkpoint that multiply something, stored without the suffix ``.weight``."""

import torch
from torch import Tensor, nn

from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions


class Factors(nn.Module):
    """(size,) factors, by default of the model's dtype."""

    def __init__(self, name: str, size: int, dtype: torch.dtype | None = None) -> None:
        """name: of the tensor, in the module that the table of weights gives."""
        super().__init__()
        self.name, self.size, self.dtype = name, size, dtype
        self.values = nn.Parameter(torch.empty(size), requires_grad=False)

    def forward(self) -> Tensor:
        """(size,)."""
        return self.values

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads them; errors as in ``LayerTensors.get``."""
        found = group.get(self.name, (self.size,))
        found = found.to(options.device, self.dtype or options.dtype)
        self.values = nn.Parameter(found, requires_grad=False)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Factors are never tied."""
        raise AssertionError("factors cannot be tied")

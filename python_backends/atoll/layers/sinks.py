"""Attention sinks (Xiao et al. 2024): one more logit in the softmax of each query head.

Its share of the softmax has no value, so a head may attend to nothing. See ``AttentionArgs.sinks``.
"""

import torch
from torch import Tensor, nn

from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions
from atoll.weights.parts import Part


class Sinks(nn.Module):
    """The logits of one rank's query heads, (heads,) float32 whatever the activations are."""

    def __init__(self, heads: Part) -> None:
        super().__init__()
        self.heads = heads
        self.logits = nn.Parameter(torch.empty(len(heads)), requires_grad=False)

    def forward(self) -> Tensor:
        """(heads,) float32."""
        return self.logits

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads the attention's ``sinks``; errors as in ``LayerTensors.get``."""
        found = group.get("sinks", (self.heads,))
        self.logits = nn.Parameter(found.to(options.device, torch.float32), requires_grad=False)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Sinks are never tied."""
        raise AssertionError("sinks cannot be tied")

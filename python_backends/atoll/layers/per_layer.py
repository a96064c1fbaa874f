"""Inputs that every layer gets besides the stream: of a token's word, and of its first vector.

Gemma 3n and 4: ``(norm(project(x0) / sqrt(hidden)) + sqrt(width) * table[id]) / sqrt(2)``, of which
each layer adds a part to the stream, gated by that.
"""

import math

import torch
from torch import Tensor, nn

from atoll.layers.embedding import TokenEmbedding
from atoll.layers.linear import Linear
from atoll.layers.norm import RMSNorm


class LayerInputs(nn.Module):
    """The inputs of all layers, ``width`` features each."""

    def __init__(
        self, hidden_size: int, vocab_size: int, num_layers: int, width: int, eps: float
    ) -> None:
        super().__init__()
        self.num_layers, self.width = num_layers, width
        self.embed = TokenEmbedding(vocab_size, num_layers * width)
        self.project = Linear(hidden_size, num_layers * width, bias=False)
        self.norm = RMSNorm(width, eps)
        # As transformers does: rounded to the dtype of the vectors.
        scale = torch.tensor(width**0.5, device="cpu")
        self.scales = {dtype: scale.to(dtype).item() for dtype in (torch.float32, torch.bfloat16)}

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """x: what the first layer sees, (tokens, hidden). ids: (tokens,) int64.

        Returns (tokens, num_layers, width).
        """
        shape = len(x), self.num_layers, self.width
        context = self.norm((self.project(x) * x.shape[1] ** -0.5).view(-1, self.width))
        words: Tensor = self.embed(ids) * self.scales[x.dtype]
        both: Tensor = context.view(shape) + words.view(shape)
        return both * math.sqrt(0.5)


class LayerInput(nn.Module):
    """What one layer makes of its input: ``norm(project(activation(gate(x)) * input))``."""

    def __init__(self, hidden_size: int, width: int, activation: str, eps: float) -> None:
        super().__init__()
        self.activation = activation
        self.gate = Linear(hidden_size, width, bias=False)
        self.project = Linear(width, hidden_size, bias=False)
        self.norm = RMSNorm(hidden_size, eps)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        """x: (tokens, hidden), given: (tokens, width) -> (tokens, hidden)."""
        out: Tensor = self.norm(self.project(self.gate(x, self.activation) * given))
        return out

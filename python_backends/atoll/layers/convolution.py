"""Convolutions along the tokens of each text, and along the frames of a spectrogram."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.layers.batch import Batch
from atoll.layers.linear import Linear
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions
from atoll_kernels import pack_linear


class Convolution(Linear):
    """``size`` tokens around each one, itself in the middle; zeros beyond a text's ends.

    A checkpoint has the weight as (hidden, hidden, size).
    """

    is_adaptable = False

    def __init__(self, hidden_size: int, size: int) -> None:
        """size: odd."""
        super().__init__(size * hidden_size, hidden_size, quantizable=False)
        self.size = size

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads weight and bias; see ``LayerTensors.get`` for the errors."""
        hidden, size = self.out_features, self.size
        weight = group.get("weight", (hidden, hidden, size)).transpose(1, 2).reshape(hidden, -1)
        bias = group.get("bias", (hidden,))
        weight, bias = (x.to(options.device, options.dtype) for x in (weight, bias))
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.packed = pack_linear(weight, bias, "dense", options.group_size)

    def of_texts(self, x: Tensor, batch: Batch, activation: str) -> Tensor:
        """x: (tokens, hidden) -> activated (tokens, hidden)."""
        tokens, reach = torch.arange(len(x), device=x.device), self.size // 2
        neighbours = []
        for offset in range(-reach, reach + 1):
            others = (tokens + offset).clamp(0, len(x) - 1)
            # In another text a position is not that much further on.
            is_same = batch.positions.index_select(0, others) == batch.positions + offset
            neighbours.append(torch.where(is_same.unsqueeze(1), x.index_select(0, others), 0))
        return self.forward(torch.cat(neighbours, 1), activation)


class FrameConvolution(nn.Module):
    """Three frames around every ``stride``-th one; zeros beyond the ends of an input.

    A checkpoint has the weight as (out_features, in_features, 3). It stays in the activations'
    dtype whatever the scheme, whole on every rank.
    """

    _SIZE = 3

    def __init__(self, in_features: int, out_features: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        weight, bias = torch.empty(out_features, in_features, self._SIZE), torch.empty(out_features)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (inputs, in_features, frames) -> (inputs, out_features, frames / stride)."""
        return F.conv1d(x, self.weight, self.bias, self.stride, padding=self._SIZE // 2)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads weight and bias; see ``LayerTensors.get`` for the errors."""
        for name, shape in (("weight", self.weight.shape), ("bias", self.bias.shape)):
            tensor = group.get(name, shape).to(options.device, options.dtype)
            setattr(self, name, nn.Parameter(tensor, requires_grad=False))

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """A convolution is never tied."""
        raise AssertionError("a convolution cannot be tied")

"""A convolution of each channel over a token and the few before it, whose inputs are kept."""

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers.parallel import Part
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions


class ShortConvolution(nn.Module):
    """Causal and depthwise. channels: those of this rank."""

    def __init__(
        self, channels: int | Part, width: int, *, bias: bool = False, activation: str | None = None
    ) -> None:
        """width: tokens, the current one included. activation: None or "silu"."""
        super().__init__()
        self.channels, self.width, self.activation = Part.of(channels), width, activation
        count = len(self.channels)
        self.weight = nn.Parameter(torch.empty(count, width), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(count), requires_grad=False) if bias else None

    @property
    def state_shape(self) -> tuple[int, int]:
        """What a sequence keeps: the last inputs of every channel, oldest first."""
        return len(self.channels), self.width - 1

    def forward(self, x: Tensor, state: Tensor | None, past: kernels.Past) -> Tensor:
        """x: (tokens, channels) -> (tokens, channels); mutates the state."""
        return kernels.causal_conv(x, self.weight, self.bias, state, past, self.activation)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads (channels, 1, width) and the bias; errors as in ``LayerTensors.get``."""
        weight = group.get("weight", (self.channels, 1, self.width)).squeeze(1)
        self.weight = nn.Parameter(weight.to(options.device, options.dtype), requires_grad=False)
        bias = group.bias(self.channels, self.bias is not None)
        if bias is not None:
            self.bias = nn.Parameter(bias.to(options.device, options.dtype), requires_grad=False)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Convolutions are never tied."""
        raise AssertionError("a convolution cannot be tied")

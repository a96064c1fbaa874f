"""LFM2's gated short convolution, in place of attention (Liquid AI 2025).

``out(C * conv(B * x))``, where one projection makes B, C and x of a token. Where several ranks
split it, each has some of the channels, and gives partial sums.
"""

from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers import parallel, recurrent
from atoll.layers.batch import Batch, StateSpec
from atoll.layers.linear import Linear
from atoll.layers.parallel import Part
from atoll.layers.short_convolution import ShortConvolution


class GatedConvolution(nn.Module):
    """Keeps the last ``width - 1`` products of B and x of each sequence."""

    def __init__(self, hidden_size: int, width: int, bias: bool, *, index: int) -> None:
        """index: which of the recurrent layers it is. bias: of all three parts."""
        super().__init__()
        self.index = index
        channels = parallel.part(hidden_size, "channels")
        self.in_proj = Linear(hidden_size, Part.joined(channels, channels, channels), bias)
        self.conv = ShortConvolution(channels, width, bias=bias)
        self.out = Linear(channels, hidden_size, bias)

    @property
    def state_spec(self) -> StateSpec:
        """What a sequence keeps."""
        return StateSpec((self.conv.state_shape,), (None,))

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden); mutates the layer's state."""
        b, c, values = self.in_proj(x).chunk(3, 1)
        state = recurrent.state(batch, self.index)
        kept = None if state is None else state[0]
        mixed = self.conv(kernels.gate_rows(values, b, None), kept, recurrent.past(batch))
        out: Tensor = self.out(kernels.gate_rows(mixed, c, None))
        return out

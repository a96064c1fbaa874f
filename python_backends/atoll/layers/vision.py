"""The trunk of an encoder of images: patches become tokens, and an image a sequence of them.

Images of a model have one size, so that every sequence of a batch has the same length.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atoll.layers.attention import Heads
from atoll.layers.batch import Batch
from atoll.layers.embedding import Embedding
from atoll.layers.linear import Linear
from atoll.layers.norm import LayerNorm
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions

# Colours of a pixel: red, green and blue.
CHANNELS = 3


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Of a trunk for images. image_size, patch_size: sides in pixels; what is left is cut off."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    heads: Heads
    eps: float
    activation: str
    image_size: int
    patch_size: int
    has_class_token: bool

    @property
    def patches_per_side(self) -> int:
        """Patches in a row or a column of an image."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens of an image: its patches, and the class token."""
        return self.patches_per_side**2 + self.has_class_token


class LearnedVector(nn.Module):
    """A vector that stands for no input. name: of its tensor, behind that of its module."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.name = name
        self.weight = nn.Parameter(torch.empty(shape), requires_grad=False)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads the vector; see ``LayerTensors.get`` for the errors."""
        weight = group.get(self.name, tuple(self.weight.shape))
        self.weight = nn.Parameter(weight.to(options.device, options.dtype), requires_grad=False)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Never tied."""
        raise AssertionError("a learned vector cannot be tied")


class PatchEmbedding(Linear):
    """A convolution whose stride is its size: a linear layer over the pixels of each patch.

    A checkpoint has the weight as (hidden, channels, rows, columns).
    """

    is_adaptable = False

    def __init__(self, patch_size: int, hidden_size: int, bias: bool) -> None:
        super().__init__(CHANNELS * patch_size**2, hidden_size, bias, quantizable=False)
        self.patch_size = patch_size

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads weight and bias; see ``LayerTensors.get`` for the errors."""
        shape = (self.out_features, CHANNELS, self.patch_size, self.patch_size)
        bias = group.bias(self.out_features, self.bias is not None)
        self._pack(group.get("weight", shape).flatten(1), bias, options, is_head=False)


class VisionTrunk(nn.Module):
    """Normalised hidden states of images; pooling is the caller's."""

    def __init__(
        self,
        config: VisionConfig,
        block: Callable[[int], nn.Module],
        *,
        patch_bias: bool,
        has_pre_norm: bool,
    ) -> None:
        """block: makes the block of a layer, see ``layers.block``."""
        super().__init__()
        self.config = c = config
        self.patches = PatchEmbedding(c.patch_size, c.hidden_size, patch_bias)
        self.class_token: LearnedVector | None = None
        if c.has_class_token:
            self.class_token = LearnedVector("class_embedding", (c.hidden_size,))
        self.positions = Embedding(c.num_tokens, c.hidden_size)
        self.pre_norm = LayerNorm(c.hidden_size, c.eps) if has_pre_norm else None
        self.blocks = nn.ModuleList(map(block, range(c.num_layers)))
        self.norm = LayerNorm(c.hidden_size, c.eps)

    def forward(self, batch: Batch) -> Tensor:
        """batch: with ``pixels``. (tokens, hidden), the class token of an image first."""
        assert batch.pixels is not None, "images have pixels"
        tokens: Tensor = self.patches(batch.pixels)
        num_images = len(batch.cu_seqlens) - 1
        rows = tokens.view(num_images, -1, self.config.hidden_size)
        if self.class_token is not None:
            first = self.class_token.weight.expand(num_images, 1, -1)
            rows = torch.cat([first, rows], 1)
        x, residual = (rows + self.positions.weight).flatten(0, 1), None
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        for block in self.blocks:
            x, residual = block(x, residual, batch)
        out: Tensor = self.norm(x, residual)
        return out

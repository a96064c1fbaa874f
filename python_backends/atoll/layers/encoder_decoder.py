"""An encoder-decoder from its parts, and the blocks of its decoder.

``encode`` runs once per request and leaves every decoder layer's cross-attention keys and values
in the cache; ``forward`` then continues the decoder like any other model.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from atoll.layers.attention import Attention, CrossAttention
from atoll.layers.batch import Batch, CacheSpec, StateSpec
from atoll.layers.block import PostNormBlock, PreNormBlock, States
from atoll.layers.norm import Norm


class CrossPreNormBlock(PreNormBlock):
    """Pre-norm, with attention to the encoder's outputs between the two parts."""

    def __init__(
        self, norm1: Norm, attention: Attention, cross_norm: Norm, cross: CrossAttention,
        norm2: Norm, mlp: nn.Module,
    ) -> None:  # fmt: skip
        super().__init__(norm1, attention, norm2, mlp)
        self.cross_norm, self.cross = cross_norm, cross

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> States:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h, residual = self.norm1.add(x, residual)
        h, residual = self.cross_norm.add(self.reduce(self.attention(h, batch)), residual)
        h, residual = self.norm2.add(self.reduce(self.cross(h, batch)), residual)
        return self.reduce(self.mlp(h)), residual


class CrossPostNormBlock(PostNormBlock):
    """Post-norm, with attention to the encoder's outputs between the two parts."""

    def __init__(
        self, attention: Attention, norm1: Norm, cross: CrossAttention, cross_norm: Norm,
        mlp: nn.Module, norm2: Norm,
    ) -> None:  # fmt: skip
        super().__init__(attention, norm1, mlp, norm2)
        self.cross, self.cross_norm = cross, cross_norm

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> States:
        """x: (tokens, hidden) -> (tokens, hidden), None."""
        x = self.norm1(self.reduce(self.attention(x, batch)), x)
        x = self.cross_norm(self.reduce(self.cross(x, batch)), x)
        return self.norm2(self.reduce(self.mlp(x)), x), None


class EncoderDecoderLM(nn.Module, ABC):
    """``encode`` once, then ``forward`` and ``logits`` as for a decoder.

    A family makes the stacks: ``encoder`` and ``decoder``, with the norms that end them.
    """

    encoder: nn.ModuleList
    encoder_norm: Norm
    decoder: nn.ModuleList
    decoder_norm: Norm
    lm_head: nn.Module

    @abstractmethod
    def encoder_input(self, batch: Batch) -> Tensor:
        """What the encoder's first block sees, (tokens, hidden)."""

    @abstractmethod
    def decoder_input(self, batch: Batch) -> Tensor:
        """What the decoder's first block sees, (tokens, hidden)."""

    def encode(self, batch: Batch) -> None:
        """Runs the encoder and fills the cross-attention part of the cache."""
        x, residual = self.encoder_input(batch), None
        for block in self.encoder:
            x, residual = block(x, residual, batch)
        encoded = self.encoder_norm(x, residual)
        for block in self.decoder:
            assert isinstance(block, CrossPreNormBlock | CrossPostNormBlock)
            block.cross.store(encoded, batch)

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden), normalised."""
        x, residual = self.decoder_input(batch), None
        for block in self.decoder:
            x, residual = block(x, residual, batch)
        out: Tensor = self.decoder_norm(x, residual)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (rows, hidden) -> (rows, vocab) float32."""
        out: Tensor = self.lm_head(hidden)
        return out.float()

    def cache_specs(self) -> list[CacheSpec]:
        """What a decoder token, and likewise an encoder token, needs in the KV cache."""
        blocks: list[Any] = list(self.decoder)
        return [block.attention.cache_spec for block in blocks]

    def state_specs(self) -> list[StateSpec]:
        """No layer is recurrent."""
        return []

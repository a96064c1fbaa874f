"""Two trunks whose vectors are compared, one for texts and one for images (Radford et al. 2021)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from atoll.layers.attention import Attention
from atoll.layers.batch import Batch
from atoll.layers.block import PreNormBlock
from atoll.layers.embedding import Embedding
from atoll.layers.encoder import EncoderTrunk, TrunkConfig
from atoll.layers.mlp import MLP
from atoll.layers.norm import LayerNorm
from atoll.layers.vision import VisionConfig, VisionTrunk
from atoll.weights.weight_map import Source


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig(TrunkConfig):
    """The trunk of texts, and ``vision``, that of images.

    width: of the vectors of both. padded_length: tokens to which every text is filled up, as the
    model was trained; None: texts are not filled up.
    """

    vision: VisionConfig
    width: int
    padded_length: int | None = None


def _blocks(ours: str, theirs: str) -> dict[str, Source]:
    layer = f"{theirs}.encoder.layers.{{i}}"
    block = f"{ours}.blocks.{{i}}"
    return {
        f"{block}.norm1": f"{layer}.layer_norm1",
        f"{block}.attention.qkv": tuple(f"{layer}.self_attn.{x}_proj" for x in "qkv"),
        f"{block}.attention.out": f"{layer}.self_attn.out_proj",
        f"{block}.norm2": f"{layer}.layer_norm2",
        f"{block}.mlp.up": f"{layer}.mlp.fc1",
        f"{block}.mlp.down": f"{layer}.mlp.fc2",
    }


# Where checkpoints of CLIP and its descendants have the two trunks.
TOWER_WEIGHTS: Mapping[str, Source] = {
    "text.words": "text_model.embeddings.token_embedding",
    "text.positions": "text_model.embeddings.position_embedding",
    **_blocks("text", "text_model"),
    "text.norm": "text_model.final_layer_norm",
    "vision.patches": "vision_model.embeddings.patch_embedding",
    "vision.class_token": "vision_model.embeddings",
    "vision.positions": "vision_model.embeddings.position_embedding",
    "vision.pre_norm": "vision_model.pre_layrnorm",
    **_blocks("vision", "vision_model"),
    "vision.norm": "vision_model.post_layernorm",
}


class TextTower(EncoderTrunk):
    """Learned positions, pre-norm blocks, and a norm behind the last of them."""

    def __init__(self, config: TwoTowerConfig, *, causal: bool) -> None:
        super().__init__(config, lambda layer: _block(config, layer, causal))
        self.positions = Embedding(config.max_length, config.hidden_size)

    def embedded(self, batch: Batch) -> Tensor:
        """The vectors of tokens and their positions, (tokens, hidden)."""
        positions: Tensor = self.positions(batch.positions)
        return self.tokens(batch) + positions

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden)."""
        x, residual = self.first(batch), None
        for block in self.blocks:
            x, residual = block(x, residual, batch)
        out: Tensor = self.norm(x, residual)
        return out


class TwoTowers(nn.Module, ABC):
    """The trunks; an architecture says what becomes of their hidden states.

    ``text_vectors(hidden, batch)`` and ``image_vectors(hidden, batch)`` of an architecture:
    (tokens, hidden of the trunk) -> (texts or images, width).
    """

    def __init__(
        self, config: TwoTowerConfig, *, causal: bool, patch_bias: bool, has_pre_norm: bool
    ) -> None:
        super().__init__()
        self.config, vision = config, config.vision
        self.text = TextTower(config, causal=causal)
        self.vision = VisionTrunk(
            vision,
            lambda layer: _block(vision, layer, causal=False),
            patch_bias=patch_bias,
            has_pre_norm=has_pre_norm,
        )

    @property
    def max_length(self) -> int:
        """Tokens in the longest text."""
        return self.config.max_length

    @abstractmethod
    def text_vectors(self, hidden: Tensor, batch: Batch) -> Tensor:
        """See the class."""

    @abstractmethod
    def image_vectors(self, hidden: Tensor, batch: Batch) -> Tensor:
        """See the class."""


def _block(config: TrunkConfig | VisionConfig, layer: int, causal: bool) -> PreNormBlock:
    c = config
    return PreNormBlock(
        LayerNorm(c.hidden_size, c.eps),
        Attention(c.hidden_size, c.heads, layer=layer, causal=causal),
        LayerNorm(c.hidden_size, c.eps),
        MLP(c.hidden_size, c.intermediate_size, c.activation),
    )

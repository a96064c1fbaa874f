"""SigLIP, and the checkpoints of SigLIP 2 for images of one size: texts and images to vectors.

Source: layer names of transformers' ``SiglipModel``; Zhai et al. 2023. Texts are filled up with
padding, which is attended to, and the last token's vector is the text's; an image's is pooled by
attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from atoll.layers import Batch, Linear
from atoll.layers.attention_pooling import AttentionPooling
from atoll.layers.two_towers import TOWER_WEIGHTS, TwoTowerConfig, TwoTowers
from atoll.models.tower_config import read_vision, trunk_sizes
from atoll.weights.json_fields import Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="text_model.embeddings.token_embedding",
    complete=("text_model.", "vision_model."),
    modules={
        **TOWER_WEIGHTS,
        "text_head": "text_model.head",
        "pooling.probe": "vision_model.head",
        "pooling.query": "vision_model.head.attention",
        "pooling.kv": "vision_model.head.attention",
        "pooling.out": "vision_model.head.attention.out_proj",
        "pooling.norm": "vision_model.head.layernorm",
        "pooling.mlp.up": "vision_model.head.mlp.fc1",
        "pooling.mlp.down": "vision_model.head.mlp.fc2",
    },
)

_TEXT = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip
_VISION = {**_TEXT, "image_size": 224, "patch_size": 16}


@dataclass(frozen=True, kw_only=True)
class Config(TwoTowerConfig):
    """Read from config.json."""

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError: a value is not supported, or vectors of texts and images differ."""
        whole = Fields(raw)
        f, g = whole.inside("text_config"), whole.inside("vision_config")
        sizes, vision = trunk_sizes(f, _TEXT), read_vision(g, _VISION, has_class_token=False)
        g.only("vision_use_head", True)
        width = f.size("projection_size", default=sizes["hidden_size"], nullable=True)
        if width != vision.hidden_size:
            name = "projection_size" if f.has("projection_size") else "hidden_size"
            raise f.wrong(f"vision_config's hidden_size, {vision.hidden_size}", name)
        max_length = f.size("max_position_embeddings", default=64)
        return cls(
            **sizes,
            vocab_size=f.size("vocab_size", default=32000),
            max_length=max_length,
            num_token_types=0,
            tie_word_embeddings=False,
            vision=vision,
            width=width,
            padded_length=max_length,
        )


class Model(TwoTowers):
    """A linear head behind the trunk of texts, and a pooling by attention behind that of images."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, causal=False, patch_bias=True, has_pre_norm=False)
        vision = config.vision
        self.text_head = Linear(config.hidden_size, config.width)
        self.pooling = AttentionPooling(
            vision.hidden_size, vision.heads, vision.intermediate_size, vision.activation,
            vision.eps,
        )  # fmt: skip

    def text_vectors(self, hidden: Tensor, batch: Batch) -> Tensor:
        """hidden: (tokens, hidden) -> (texts, width)."""
        out: Tensor = self.text_head(hidden[batch.cu_seqlens[1:].long() - 1])
        return out

    def image_vectors(self, hidden: Tensor, batch: Batch) -> Tensor:
        """hidden: (tokens, hidden of images) -> (images, width)."""
        out: Tensor = self.pooling(hidden, batch.cu_seqlens)
        return out

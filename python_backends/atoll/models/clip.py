"""CLIP: texts and images to vectors of one space.

Source: layer names of transformers' ``CLIPModel``; Radford et al. 2021. Texts are read from left to
right, and the vector of a text is that of its end; an image is its patches and a class token, whose
vector is the image's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atoll.layers import Batch, Linear
from atoll.layers.two_towers import TOWER_WEIGHTS, TwoTowerConfig, TwoTowers
from atoll.models.tower_config import read_vision, trunk_sizes
from atoll.weights.json_fields import Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="text_model.embeddings.token_embedding",
    complete=("text_model.", "vision_model.", "text_projection.", "visual_projection."),
    modules={
        **TOWER_WEIGHTS,
        "text_projection": "text_projection",
        "image_projection": "visual_projection",
    },
)

_SHARED = {
    "num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
_TEXT = {**_SHARED, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
_VISION = {
    **_SHARED, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32,
}  # fmt: skip
# The end of a text, and what older files have in its place.
_END, _OLD_END = 49407, 2


@dataclass(frozen=True, kw_only=True)
class Config(TwoTowerConfig):
    """Read from config.json. end_token: whose first place is a text's end; None: the largest id."""

    end_token: int | None

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError: a value of ``text_config`` or ``vision_config`` is not supported."""
        whole = Fields(raw)
        f = _part(whole, "text_config", _TEXT)
        vocab_size = f.size("vocab_size", default=49408)
        # Not a token's id where it is an old file's.
        end = f.count("eos_token_id", default=_END)
        return cls(
            **trunk_sizes(f, _TEXT),
            vocab_size=vocab_size,
            max_length=f.size("max_position_embeddings", default=77),
            num_token_types=0,
            tie_word_embeddings=False,
            vision=read_vision(
                _part(whole, "vision_config", _VISION), _VISION, has_class_token=True
            ),
            width=whole.size("projection_dim", default=512),
            end_token=None if end == _OLD_END else end,
        )


def _part(fields: Fields, name: str, assumed: Mapping[str, Any]) -> Fields:
    """``text_config`` or ``vision_config``; an old file's ``text_config_dict`` goes before it."""
    inner, old = fields.inside(name), f"{name}_dict"
    if not fields.has(old):
        return inner
    keys = {**inner.raw, **assumed, **fields.inside(old).raw}
    return Fields(keys, f"{fields.source}: {old}", fields.account, f"{old}.")


class Model(TwoTowers):
    """A projection without a bias behind either trunk."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, causal=True, patch_bias=False, has_pre_norm=True)
        self.text_projection = Linear(config.hidden_size, config.width, bias=False)
        self.image_projection = Linear(config.vision.hidden_size, config.width, bias=False)

    def text_vectors(self, hidden: Tensor, batch: Batch) -> Tensor:
        """hidden: (tokens, hidden) -> (texts, width)."""
        ids, end = batch.input_ids, self.config.end_token
        scores = ids if end is None else ids == end
        out: Tensor = self.text_projection(hidden[_first_greatest(scores, batch.cu_seqlens)])
        return out

    def image_vectors(self, hidden: Tensor, batch: Batch) -> Tensor:
        """hidden: (tokens, hidden of images) -> (images, width)."""
        out: Tensor = self.image_projection(hidden[batch.cu_seqlens[:-1].long()])
        return out


def _first_greatest(scores: Tensor, cu_seqlens: Tensor) -> Tensor:
    """The row of each sequence's first greatest score, (num_seqs,) int64. scores: (tokens,)."""
    lengths, rows = cu_seqlens.long().diff(), torch.arange(len(scores), device=scores.device)
    # float64 holds every id and row; segments of integers cannot be reduced.
    values = scores.double()
    greatest = torch.segment_reduce(values, "max", lengths=lengths).repeat_interleave(lengths)
    places = torch.where(values == greatest, rows, len(rows)).double()
    return torch.segment_reduce(places, "min", lengths=lengths).long()

"""MPNet: RoBERTa's positions, and one relative bias that all layers add to their scores.

Source: layer names of transformers' ``MPNetModel``; Song et al. 2020, biases of Raffel et al. 2020.
Whatever pad_token_id says, positions begin at 2, and there are no segments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers.encoder import PositionedConfig, PositionedTrunk, bert_block
from atoll.layers.head_layouts import ROBERTA_CLASSIFIER, ROBERTA_MASKED_LANGUAGE
from atoll.layers.relative import RelativeBias
from atoll.models.config_facts import position_offset
from atoll.models.config_fields import activation, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="embeddings.word_embeddings",
    complete=("encoder.",),
    prefixes=("", "mpnet.", "model.", "module.", "0.auto_model."),
    modules={
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "norm": "embeddings.LayerNorm",
        # The first block's is that of all.
        "blocks.0.attention.relative_bias": "encoder.relative_attention_bias",
        "blocks.{i}.attention.qkv": tuple(f"encoder.layer.{{i}}.attention.attn.{x}" for x in "qkv"),
        "blocks.{i}.attention.out": "encoder.layer.{i}.attention.attn.o",
        "blocks.{i}.norm1": "encoder.layer.{i}.attention.LayerNorm",
        "blocks.{i}.mlp.up": "encoder.layer.{i}.intermediate.dense",
        "blocks.{i}.mlp.down": "encoder.layer.{i}.output.dense",
        "blocks.{i}.norm2": "encoder.layer.{i}.output.LayerNorm",
    },
)

# Fixed in transformers: a table of another size would be read as if it had 32 rows.
_NUM_BUCKETS = 32
_MAX_DISTANCE = 128


@dataclass(frozen=True, kw_only=True)
class Config(PositionedConfig):
    """Read from config.json."""

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for another number of buckets, and for too few positions."""
        f = Fields(raw)
        f.only("relative_attention_num_buckets", _NUM_BUCKETS)
        hidden_size, offset = f.size("hidden_size"), position_offset(f)
        max_positions = f.size("max_position_embeddings")
        if max_positions <= offset:
            raise f.wrong(f"more than {offset}, where positions begin", "max_position_embeddings")
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=read_heads(f, hidden_size),
            max_length=max_positions - offset,
            position_offset=offset,
            num_token_types=0,
            eps=f.number("layer_norm_eps", default=1e-12),
            activation=activation(f, "hidden_act", default="gelu"),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            classifiers=(ROBERTA_CLASSIFIER,),
            masked_language=(ROBERTA_MASKED_LANGUAGE,),
        )


class Model(PositionedTrunk):
    """Post-norm blocks; learned positions, and biases by distance."""

    def __init__(self, config: Config) -> None:
        bias = RelativeBias(config.heads.num_heads, _NUM_BUCKETS, _MAX_DISTANCE, bidirectional=True)
        super().__init__(config, lambda layer: bert_block(config, layer, bias))

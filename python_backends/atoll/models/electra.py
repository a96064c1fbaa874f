"""ELECTRA: BERT whose embeddings may be narrower than its layers, and projected to them.

Source: layer names of transformers' ``ElectraModel``; Clark et al. 2020. Generators have the head
that scores words; discriminators are what classifiers and embedders are made of.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from atoll.layers.encoder import PositionedConfig, PositionedTrunk
from atoll.layers.head_layouts import ROBERTA_CLASSIFIER, MaskedLanguageLayout
from atoll.models.config_fields import activation, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="embeddings.word_embeddings",
    complete=("encoder.layer.",),
    prefixes=("", "electra.", "model.", "module.", "0.auto_model."),
    modules={
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
        "projection": "embeddings_project",
        "blocks.{i}.attention.qkv": (
            "encoder.layer.{i}.attention.self.query", "encoder.layer.{i}.attention.self.key",
            "encoder.layer.{i}.attention.self.value",
        ),
        "blocks.{i}.attention.out": "encoder.layer.{i}.attention.output.dense",
        "blocks.{i}.norm1": "encoder.layer.{i}.attention.output.LayerNorm",
        "blocks.{i}.mlp.up": "encoder.layer.{i}.intermediate.dense",
        "blocks.{i}.mlp.down": "encoder.layer.{i}.output.dense",
        "blocks.{i}.norm2": "encoder.layer.{i}.output.LayerNorm",
    },
)  # fmt: skip

# hidden_act has no effect on either head.
_CLASSIFIER = replace(ROBERTA_CLASSIFIER, activation="gelu")
_MASKED_LANGUAGE = MaskedLanguageLayout(
    weights=WeightMap(
        anchor="generator_predictions.dense",
        modules={
            "dense": "generator_predictions.dense",
            "norm": "generator_predictions.LayerNorm",
            "decoder": "generator_lm_head",
            "bias": "generator_lm_head",
        },
    ),
    activation="gelu",
)


@dataclass(frozen=True, kw_only=True)
class Config(PositionedConfig):
    """Read from config.json."""

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for positions that are not absolute, and for a causal model."""
        f = Fields(raw)
        f.only("position_embedding_type", "absolute")
        f.only("is_decoder", False)
        f.only("add_cross_attention", False)
        hidden_size, embedding_size = f.size("hidden_size"), f.size("embedding_size")
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            embedding_size=None if embedding_size == hidden_size else embedding_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=read_heads(f, hidden_size),
            max_length=f.size("max_position_embeddings"),
            num_token_types=f.size("type_vocab_size", default=2),
            eps=f.number("layer_norm_eps", default=1e-12),
            activation=activation(f, "hidden_act", default="gelu"),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            classifiers=(_CLASSIFIER,),
            masked_language=(replace(_MASKED_LANGUAGE, width=embedding_size),),
        )


class Model(PositionedTrunk):
    """Post-norm blocks; learned positions."""

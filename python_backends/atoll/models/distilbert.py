"""DistilBERT: BERT without segments and pooler, with names of its own.

Source: config fields and layer names of transformers' ``DistilBertModel``; Sanh et al. 2019.
``sinusoidal_pos_embds`` only says how the table of positions was made, which every file holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers.encoder import PositionedConfig, PositionedTrunk
from atoll.layers.head_layouts import ClassifierLayout, MaskedLanguageLayout
from atoll.models.config_fields import activation, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="embeddings.word_embeddings",
    complete=("transformer.layer.",),
    prefixes=("", "distilbert.", "model.", "module.", "0.auto_model."),
    modules={
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "norm": "embeddings.LayerNorm",
        "blocks.{i}.attention.qkv": tuple(
            f"transformer.layer.{{i}}.attention.{x}_lin" for x in "qkv"
        ),
        "blocks.{i}.attention.out": "transformer.layer.{i}.attention.out_lin",
        "blocks.{i}.norm1": "transformer.layer.{i}.sa_layer_norm",
        "blocks.{i}.mlp.up": "transformer.layer.{i}.ffn.lin1",
        "blocks.{i}.mlp.down": "transformer.layer.{i}.ffn.lin2",
        "blocks.{i}.norm2": "transformer.layer.{i}.output_layer_norm",
    },
)

_CLASSIFIER = ClassifierLayout(
    weights=WeightMap(
        anchor="pre_classifier",
        modules={"dense": "pre_classifier", "classifier": "classifier"},
    ),
    activation="relu",
)
_MASKED_LANGUAGE = MaskedLanguageLayout(
    weights=WeightMap(
        anchor="vocab_transform",
        modules={
            "dense": "vocab_transform",
            "norm": "vocab_layer_norm",
            "decoder": "vocab_projector",
            "bias": "vocab_projector",
        },
    )
)


@dataclass(frozen=True, kw_only=True)
class Config(PositionedConfig):
    """Read from config.json."""

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        f = Fields(raw)
        widths = ("dim", "hidden_size")
        hidden_size = f.size(*widths)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("hidden_dim"),
            num_layers=f.size("n_layers", "num_hidden_layers", most=MAX_LAYERS),
            heads=read_heads(f, hidden_size, widths, ("n_heads", "num_attention_heads")),
            max_length=f.size("max_position_embeddings"),
            num_token_types=0,
            eps=1e-12,
            activation=activation(f, "activation", default="gelu"),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            classifiers=(_CLASSIFIER,),
            masked_language=(_MASKED_LANGUAGE,),
        )


class Model(PositionedTrunk):
    """Post-norm blocks; learned positions."""

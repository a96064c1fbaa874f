"""ALBERT: BERT with narrow embeddings, whose layers share the weights of a few blocks.

Source: layer names of transformers' ``AlbertModel``; Lan et al. 2020. Of 12 layers with
num_hidden_groups 1, all are the same group of inner_group_num blocks, run one after the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from atoll.layers import Batch
from atoll.layers.block import States
from atoll.layers.encoder import PositionedConfig, PositionedTrunk, bert_block
from atoll.layers.head_layouts import ClassifierLayout, MaskedLanguageLayout
from atoll.models.config_fields import activation, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, WeightMap

_BLOCK = "encoder.albert_layer_groups.{i}.albert_layers.{e}"
WEIGHTS = WeightMap(
    anchor="embeddings.word_embeddings",
    complete=("encoder.",),
    prefixes=("", "albert.", "model.", "module.", "0.auto_model."),
    modules={
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
        "projection": "encoder.embedding_hidden_mapping_in",
        "blocks.{i}.{e}.attention.qkv": tuple(
            f"{_BLOCK}.attention.{x}" for x in ("query", "key", "value")
        ),
        "blocks.{i}.{e}.attention.out": f"{_BLOCK}.attention.dense",
        "blocks.{i}.{e}.norm1": f"{_BLOCK}.attention.LayerNorm",
        "blocks.{i}.{e}.mlp.up": f"{_BLOCK}.ffn",
        "blocks.{i}.{e}.mlp.down": f"{_BLOCK}.ffn_output",
        "blocks.{i}.{e}.norm2": f"{_BLOCK}.full_layer_layer_norm",
    },
)

_CLASSIFIER = ClassifierLayout(
    weights=WeightMap(
        anchor="classifier",
        modules={"dense": FirstOf("albert.pooler", "pooler"), "classifier": "classifier"},
    )
)
_MASKED_LANGUAGE = MaskedLanguageLayout(
    weights=WeightMap(
        anchor="predictions.dense",
        modules={
            "dense": "predictions.dense",
            "norm": "predictions.LayerNorm",
            "decoder": "predictions.decoder",
            "bias": "predictions",
        },
    )
)


@dataclass(frozen=True, kw_only=True)
class Config(PositionedConfig):
    """Read from config.json. num_groups: of layers; num_inner: blocks of a group."""

    num_groups: int
    num_inner: int

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for positions that are not absolute."""
        f = Fields(raw)
        f.only("position_embedding_type", "absolute")
        hidden_size, embedding_size = f.size("hidden_size"), f.size("embedding_size")
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            embedding_size=embedding_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            num_groups=f.size("num_hidden_groups", default=1, most=MAX_LAYERS),
            num_inner=f.size("inner_group_num", default=1, most=MAX_LAYERS),
            heads=read_heads(f, hidden_size),
            max_length=f.size("max_position_embeddings"),
            num_token_types=f.size("type_vocab_size", default=2),
            eps=f.number("layer_norm_eps", default=1e-12),
            activation=activation(f, "hidden_act", default="gelu_new"),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            classifiers=(_CLASSIFIER,),
            masked_language=(replace(_MASKED_LANGUAGE, width=embedding_size),),
        )


class Group(nn.ModuleList):
    """Blocks run one after the other."""

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> States:
        """x: (tokens, hidden) -> (tokens, hidden), None."""
        for block in self:
            x, residual = block(x, residual, batch)
        return x, residual


class Model(PositionedTrunk):
    """Groups of post-norm blocks, each run for several layers; learned positions."""

    def __init__(self, config: Config) -> None:
        def group(index: int) -> Group:
            return Group(bert_block(config, index) for _ in range(config.num_inner))

        super().__init__(config, group, config.num_groups)
        layers_per_group = config.num_layers / config.num_groups
        # In transformers' arithmetic, where groups do not divide the layers.
        self.order = [int(layer / layers_per_group) for layer in range(config.num_layers)]

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden)."""
        x, residual = self.first(batch), None
        for index in self.order:
            x, residual = self.blocks[index](x, residual, batch)
        return x

"""JinaBERT v2: BERT's layout with symmetric ALiBi in place of positions, and a gated MLP.

Source: the published description of jina-embeddings-v2 (Günther et al. 2023) and the tensor names
of its checkpoints; ALiBi of Press et al. 2022 with ``-slope * abs(i - j)``; GEGLU of Shazeer 2020,
whose first half is activated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.errors import UnsupportedModel
from atoll.layers import Attention, EncoderTrunk, GatedMLP, LayerNorm, TrunkConfig
from atoll.layers.block import PostNormBlock
from atoll.layers.head_layouts import BERT_CLASSIFIERS, BERT_MASKED_LANGUAGES
from atoll.models.config_fields import read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap
from atoll_kernels.attention import alibi_slopes

WEIGHTS = WeightMap(
    anchor="embeddings.word_embeddings",
    complete=("encoder.layer.",),
    prefixes=("", "bert."),
    modules={
        "words": "embeddings.word_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
        "blocks.{i}.attention.qkv": (
            "encoder.layer.{i}.attention.self.query", "encoder.layer.{i}.attention.self.key",
            "encoder.layer.{i}.attention.self.value",
        ),
        "blocks.{i}.attention.out": "encoder.layer.{i}.attention.output.dense",
        "blocks.{i}.norm1": "encoder.layer.{i}.attention.output.LayerNorm",
        "blocks.{i}.mlp.gate_up": "encoder.layer.{i}.mlp.gated_layers",
        "blocks.{i}.mlp.down": "encoder.layer.{i}.mlp.wo",
        "blocks.{i}.norm2": "encoder.layer.{i}.mlp.layernorm",
    },
)  # fmt: skip

# The repository whose code jina-embeddings-v2-base-code names.
_OTHER_LAYERS = "jina-bert-v2-qk-post-norm"
# feed_forward_type -> activation of the gate.
_GATES = {"geglu": "gelu", "reglu": "relu"}


@dataclass(frozen=True, kw_only=True)
class Config(TrunkConfig):
    """Read from config.json; any text could be computed, the model is meant for ``max_length``."""

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for an MLP that is not gated, or positions other than ALiBi.

        Raises UnsupportedModel for jina-embeddings-v2-base-code, which has other layers.
        """
        f = Fields(raw)
        f.only("position_embedding_type", "alibi")
        if _OTHER_LAYERS in f"{raw.get('auto_map')} {raw.get('_name_or_path')}":
            raise UnsupportedModel(
                f"config.json names {_OTHER_LAYERS}: JinaBERT v2 of code, with norms on queries "
                "and keys, is not supported"
            )
        gate = f.only("feed_forward_type", "geglu", "reglu")
        hidden_size = f.size("hidden_size")
        limit = "model_max_length" if f.has("model_max_length") else "max_position_embeddings"
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=read_heads(f, hidden_size),
            max_length=f.size(limit),
            num_token_types=f.size("type_vocab_size", default=2),
            eps=f.number("layer_norm_eps", default=1e-12),
            activation=_GATES[gate],
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            classifiers=BERT_CLASSIFIERS,
            masked_language=BERT_MASKED_LANGUAGES,
        )


class Model(EncoderTrunk):
    """Post-norm blocks."""

    def __init__(self, config: Config) -> None:
        c, slopes = config, alibi_slopes(config.heads.num_heads)

        def block(layer: int) -> PostNormBlock:
            return PostNormBlock(
                Attention(c.hidden_size, c.heads, layer=layer, causal=False, alibi_slopes=slopes),
                LayerNorm(c.hidden_size, c.eps),
                GatedMLP(c.hidden_size, c.intermediate_size, c.activation, down_bias=True),
                LayerNorm(c.hidden_size, c.eps),
            )

        super().__init__(c, block)

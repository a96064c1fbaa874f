"""GTE of Alibaba's "new" layout, multilingual and v1.5, and Snowflake's m-v2.0 made from it.

Source: tensor names of the published checkpoints, which transformers' ``GteModel`` keeps in its
files; Zhang et al. 2024 (mGTE). BERT with rotary positions and a gated MLP, whose gate is stored
last. Fixed NTK scaling of the rotation: kexue.fm/archives/9706, equation 6.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atoll.errors import ConfigError
from atoll.layers import Attention, EncoderTrunk, GatedMLP, LayerNorm, TrunkConfig
from atoll.layers.attention import Heads
from atoll.layers.block import PostNormBlock
from atoll.layers.head_layouts import ClassifierLayout, MaskedLanguageLayout
from atoll.layers.rotary import MAX_POSITIONS, RopeSpec, Rotary
from atoll.models.config_fields import check_width, read_heads, whole_head_rope
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, Reorder, WeightMap


def _gate_first(config: "Config") -> Tensor:
    rows = torch.arange(2 * config.intermediate_size)
    return rows.roll(-config.intermediate_size)


WEIGHTS = WeightMap(
    anchor="embeddings.word_embeddings",
    complete=("encoder.layer.",),
    prefixes=("", "new.", "gte."),
    modules={
        "words": "embeddings.word_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
        "blocks.{i}.attention.qkv": FirstOf(
            "encoder.layer.{i}.attention.qkv_proj",
            (
                "encoder.layer.{i}.attention.q_proj", "encoder.layer.{i}.attention.k_proj",
                "encoder.layer.{i}.attention.v_proj",
            ),
        ),
        "blocks.{i}.attention.out": "encoder.layer.{i}.attention.o_proj",
        "blocks.{i}.norm1": "encoder.layer.{i}.attn_ln",
        "blocks.{i}.mlp.gate_up": Reorder("encoder.layer.{i}.mlp.up_gate_proj", _gate_first),
        "blocks.{i}.mlp.down": "encoder.layer.{i}.mlp.down_proj",
        "blocks.{i}.norm2": "encoder.layer.{i}.mlp_ln",
    },
)  # fmt: skip

_CLASSIFIER = ClassifierLayout(
    weights=WeightMap(
        anchor="classifier",
        modules={
            "dense": FirstOf("new.pooler.dense", "gte.pooler.dense", "pooler.dense"),
            "classifier": "classifier",
        },
    )
)
_MASKED_LANGUAGE = MaskedLanguageLayout(
    weights=WeightMap(
        anchor="lm_head.dense",
        modules={
            "dense": "lm_head.dense",
            "norm": "lm_head.norm",
            "decoder": "lm_head.decoder",
            "bias": "lm_head.decoder",
        },
    )
)


@dataclass(frozen=True, kw_only=True)
class Config(TrunkConfig):
    """Read from config.json."""

    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for positions, norms or a scaling of attention that are not known."""
        f = Fields(raw)
        f.only("position_embedding_type", "rope")
        f.only("layer_norm_type", "layer_norm")
        f.only("logn_attention_scale", False)
        f.only("logn_attention_clip1", False)
        hidden_size = f.size("hidden_size")
        heads = read_heads(f, hidden_size)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=heads,
            max_length=f.size("max_position_embeddings", most=MAX_POSITIONS),
            num_token_types=f.count("type_vocab_size", default=1),
            eps=f.number("layer_norm_eps", default=1e-12),
            # Of the head, too, by GTE's own code; transformers' class always takes GELU for that.
            activation=f.only("hidden_act", "gelu"),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            classifiers=(_CLASSIFIER,),
            masked_language=(_MASKED_LANGUAGE,),
            rope=_rope(f, heads),
        )


def _rope(f: Fields, heads: Heads) -> RopeSpec:
    """The rotation: GTE's own fixed NTK scaling, or one of transformers'."""
    # What an absent theta means depends on whose class reads the file.
    theta = 160000.0 if f.raw.get("model_type") == "gte" else 10000.0
    scaling = f.inside("rope_scaling")
    if scaling.text("type", "rope_type", default="") != "ntk":
        return whole_head_rope(f, heads, theta)
    if f.has("rope_parameters"):
        raise ConfigError(f"{f.source} has rope_parameters beside rope_scaling of type 'ntk'")
    scaling.only("mixed_b", None)
    dim, factor = heads.head_dim, scaling.number("factor", above=1.0)
    check_width(f, dim, dim, "num_attention_heads")
    # A greater theta, and all frequencies divided.
    return RopeSpec(
        dim=dim,
        theta=f.number("rope_theta", default=theta, above=1.0) * factor,
        max_positions=f.size("max_position_embeddings", most=MAX_POSITIONS),
        kind="linear",
        factor=factor ** (2 / dim),
    )


class Model(EncoderTrunk):
    """Post-norm blocks; rotary positions."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)

        def block(layer: int) -> PostNormBlock:
            return PostNormBlock(
                Attention(c.hidden_size, c.heads, layer=layer, causal=False, rotary=rotary),
                LayerNorm(c.hidden_size, c.eps),
                GatedMLP(c.hidden_size, c.intermediate_size, c.activation, down_bias=True),
                LayerNorm(c.hidden_size, c.eps),
            )

        super().__init__(c, block)

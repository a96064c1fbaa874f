"""DeBERTa v2 and v3: post-norm blocks whose attention also compares words with distances.

Source: config fields and layer names of transformers' ``DebertaV2Model``; He et al. 2021 for the
attention. Distances have vectors of their own, one table for all layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from atoll.layers import MLP, Batch, Embedding, EncoderTrunk, LayerNorm, Linear, TrunkConfig
from atoll.layers.block import PostNormBlock
from atoll.layers.convolution import Convolution
from atoll.layers.disentangled import DisentangledAttention, distance_rows
from atoll.layers.head_layouts import (
    BERT_MASKED_LANGUAGE,
    ClassifierLayout,
    MaskedLanguageLayout,
)
from atoll.models.config_fields import activation, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap

_SELF = "encoder.layer.{i}.attention.self"

WEIGHTS = WeightMap(
    anchor="embeddings.word_embeddings",
    complete=("encoder.", "embeddings.embed_proj"),
    prefixes=("", "deberta."),
    modules={
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "word_projection": "embeddings.embed_proj",
        "norm": "embeddings.LayerNorm",
        "distances": "encoder.rel_embeddings",
        "distance_norm": "encoder.LayerNorm",
        "convolution": "encoder.conv.conv",
        "convolution_norm": "encoder.conv.LayerNorm",
        "blocks.{i}.attention.qkv": (
            f"{_SELF}.query_proj", f"{_SELF}.key_proj", f"{_SELF}.value_proj",
        ),
        "blocks.{i}.attention.distance_key": f"{_SELF}.pos_key_proj",
        "blocks.{i}.attention.distance_query": f"{_SELF}.pos_query_proj",
        "blocks.{i}.attention.out": "encoder.layer.{i}.attention.output.dense",
        "blocks.{i}.norm1": "encoder.layer.{i}.attention.output.LayerNorm",
        "blocks.{i}.mlp.up": "encoder.layer.{i}.intermediate.dense",
        "blocks.{i}.mlp.down": "encoder.layer.{i}.output.dense",
        "blocks.{i}.norm2": "encoder.layer.{i}.output.LayerNorm",
    },
)  # fmt: skip

_CLASSIFIER = WeightMap(
    anchor="classifier", modules={"dense": "pooler.dense", "classifier": "classifier"}
)
_HEAD = "lm_predictions.lm_head"
# Of the published v3 checkpoints; transformers' own is called as BERT's.
_MASKED_LANGUAGE = WeightMap(
    anchor=f"{_HEAD}.dense",
    modules={
        "dense": f"{_HEAD}.dense",
        "norm": f"{_HEAD}.LayerNorm",
        "decoder": f"{_HEAD}.decoder",
        "bias": _HEAD,
    },
)


# Tokens that a convolution may span; v2-xlarge's spans 3.
_MAX_CONVOLUTION = 1 << 10


@dataclass(frozen=True, kw_only=True)
class Config(TrunkConfig):
    """Read from config.json.

    word_size: of the vectors of words, positions and segments. has_positions: whether words also
    have absolute positions. num_buckets: of distances on either side, up to max_distance; 0: every
    distance is one. span: rows for either side. has_keys, has_queries, is_shared: see
    ``DisentangledAttention``. convolution: tokens that it spans, and its activation.
    """

    word_size: int
    has_positions: bool
    max_distance: int
    num_buckets: int
    span: int
    has_distance_norm: bool
    has_keys: bool
    has_queries: bool
    is_shared: bool
    convolution: tuple[int, str] | None

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for attention without distances."""
        f = Fields(raw)
        if not f.flag("relative_attention", default=False):
            raise f.wrong("true", "relative_attention")
        hidden_size, max_length = f.size("hidden_size"), f.size("max_position_embeddings")
        word_size = f.size("embedding_size", default=hidden_size)
        max_distance = f.count("max_relative_positions", default=-1, least=-1)
        max_distance = max_distance if max_distance > 0 else max_length
        num_buckets = max(0, f.count("position_buckets", default=-1, least=-1))
        if num_buckets == 1 or (num_buckets and max_distance - 1 <= num_buckets // 2):
            raise f.wrong(
                f"2 or more, and less than twice max_relative_positions, {max_distance}",
                "position_buckets",
            )
        f.only("pooler_hidden_size", hidden_size)
        heads, kinds = read_heads(f, hidden_size), _kinds(f)
        f.only("attention_head_size", heads.head_dim)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=heads,
            max_length=max_length,
            num_token_types=f.count("type_vocab_size", default=0),
            eps=f.number("layer_norm_eps", default=1e-7),
            activation=activation(f, "hidden_act", default="gelu"),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            classifiers=(
                ClassifierLayout(
                    weights=_CLASSIFIER,
                    activation=activation(f, "pooler_hidden_act", default="gelu"),
                ),
            ),
            masked_language=(
                MaskedLanguageLayout(weights=_MASKED_LANGUAGE, width=hidden_size),
                MaskedLanguageLayout(weights=BERT_MASKED_LANGUAGE.weights, width=word_size),
            ),
            word_size=word_size,
            has_positions=f.flag("position_biased_input", default=True),
            max_distance=max_distance,
            num_buckets=num_buckets,
            span=num_buckets or max_distance,
            has_distance_norm="layer_norm" in _norms(f),
            has_keys="c2p" in kinds,
            has_queries="p2c" in kinds,
            is_shared=f.flag("share_att_key", default=False),
            convolution=_convolution(f),
        )


def _kinds(f: Fields) -> tuple[str, ...]:
    """What scores compare besides words: "c2p", words with distances, and "p2c", the reverse."""
    name = "pos_att_type"
    is_text = isinstance(f.raw.get(name), str)
    kinds = tuple(f.text(name).lower().split("|")) if is_text else f.texts(name)
    kinds = tuple(kind.strip() for kind in kinds)
    if not kinds or not set(kinds) <= {"c2p", "p2c"}:
        raise f.wrong("c2p, p2c or both", name)
    return kinds


def _convolution(f: Fields) -> tuple[int, str] | None:
    size = f.count("conv_kernel_size", default=0, most=_MAX_CONVOLUTION)
    if size and not size % 2:
        raise f.wrong("an odd number, or 0", "conv_kernel_size")
    f.only("conv_groups", 1)
    named = activation(f, "conv_act", default="tanh")
    return (size, named) if size else None


def _norms(f: Fields) -> list[str]:
    """How the vectors of distances are normed."""
    names = [name.strip() for name in f.text("norm_rel_ebd", default="none").lower().split("|")]
    if not set(names) <= {"none", "layer_norm"}:
        raise f.wrong("none or layer_norm", "norm_rel_ebd")
    return names


class Model(EncoderTrunk):
    """Post-norm blocks; the vectors of distances are shared by all of them.

    With a convolution, its output is added to that of the first block, which is normed again.
    """

    def __init__(self, config: Config) -> None:
        c = config

        def block(layer: int) -> PostNormBlock:
            return PostNormBlock(
                DisentangledAttention(
                    c.hidden_size, c.heads, self.distance_vectors, has_keys=c.has_keys,
                    has_queries=c.has_queries, is_shared=c.is_shared,
                ),
                LayerNorm(c.hidden_size, c.eps),
                MLP(c.hidden_size, c.intermediate_size, c.activation),
                LayerNorm(c.hidden_size, c.eps),
            )  # fmt: skip

        super().__init__(c, block)
        self.distances = Embedding(2 * c.span, c.hidden_size)
        self.distance_norm = LayerNorm(c.hidden_size, c.eps) if c.has_distance_norm else None
        self.positions = self.word_projection = self.convolution = None
        if c.convolution is not None:
            self.convolution = Convolution(c.hidden_size, c.convolution[0])
            self.convolution_norm = LayerNorm(c.hidden_size, c.eps)
        if c.has_positions:
            self.positions = Embedding(c.max_length, c.word_size)
        if c.word_size != c.hidden_size:
            self.words = Embedding(c.vocab_size, c.word_size)
            self.word_projection = Linear(c.word_size, c.hidden_size, bias=False)
            if c.num_token_types:
                self.token_types = Embedding(c.num_token_types, c.word_size)

    def embedded(self, batch: Batch) -> Tensor:
        """What the first block sees, (tokens, hidden)."""
        x = self.tokens(batch)
        if self.positions is not None:
            x = x + self.positions(batch.positions)
        out: Tensor = self.norm(x if self.word_projection is None else self.word_projection(x))
        return out

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden)."""
        c: Any = self.config
        first = self.first(batch)
        x, residual = first, None
        for layer, block in enumerate(self.blocks):
            x, residual = block(x, residual, batch)
            if layer == 0 and self.convolution is not None:
                convolved = self.convolution.of_texts(first, batch, c.convolution[1])
                x = self.convolution_norm(x, convolved)
        return x

    def distance_vectors(self) -> tuple[Tensor, Tensor]:
        """The vectors of distances, (2 * span, hidden), and the row of each distance."""
        c: Any = self.config
        vectors = self.distances.weight
        normed = vectors if self.distance_norm is None else self.distance_norm(vectors)
        return normed, distance_rows(c.max_length, c.span, c.num_buckets, c.max_distance)

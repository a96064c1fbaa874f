"""JinaBERT v2: BERT's layout with symmetric ALiBi in place of positions, and a gated MLP.

Source: the published description of jina-embeddings-v2 (Günther et al. 2023) and the tensor names
of its checkpoints; ALiBi of Press et al. 2022 with ``-slope * abs(i - j)``; GEGLU of Shazeer 2020,
whose first half is activated. jina-embeddings-v2-base-code differs in its layers: queries and keys
are normed over all heads, attention has a second residual sum with a norm, and the second half of
the MLP is activated (its code's repository is jina-bert-v2-qk-post-norm).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atoll.layers import Attention, Batch, EncoderTrunk, GatedMLP, LayerNorm, TrunkConfig
from atoll.layers.block import PostNormBlock, States
from atoll.layers.head_layouts import BERT_CLASSIFIERS, BERT_MASKED_LANGUAGES
from atoll.layers.qk_norm import wide_norms
from atoll.models.config_fields import read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, Reorder, WeightMap
from atoll_kernels.attention import alibi_slopes


def _gate_first(config: "Config") -> Tensor:
    rows = torch.arange(2 * config.intermediate_size)
    return rows.roll(-config.intermediate_size)


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
        "blocks.{i}.attention.q_norm": "encoder.layer.{i}.attention.self.layer_norm_q",
        "blocks.{i}.attention.k_norm": "encoder.layer.{i}.attention.self.layer_norm_k",
        "blocks.{i}.attention.out": "encoder.layer.{i}.attention.output.dense",
        "blocks.{i}.norm1": "encoder.layer.{i}.attention.output.LayerNorm",
        "blocks.{i}.sum_norm": "encoder.layer.{i}.layer_norm_1",
        "blocks.{i}.mlp.gate_up": FirstOf(
            "encoder.layer.{i}.mlp.gated_layers",
            Reorder("encoder.layer.{i}.mlp.up_gated_layer", _gate_first),
        ),
        "blocks.{i}.mlp.down": FirstOf(
            "encoder.layer.{i}.mlp.wo", "encoder.layer.{i}.mlp.down_layer"
        ),
        "blocks.{i}.norm2": FirstOf(
            "encoder.layer.{i}.mlp.layernorm", "encoder.layer.{i}.layer_norm_2"
        ),
    },
)  # fmt: skip

# The repository whose code jina-embeddings-v2-base-code names.
_CODE = "jina-bert-v2-qk-post-norm"
# feed_forward_type -> activation of the gate.
_GATES = {"geglu": "gelu", "reglu": "relu"}


@dataclass(frozen=True, kw_only=True)
class Config(TrunkConfig):
    """Read from config.json; any text could be computed, the model is meant for ``max_length``.

    is_code: has the layers of jina-embeddings-v2-base-code.
    """

    is_code: bool

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for an MLP that is not gated, or positions other than ALiBi."""
        f = Fields(raw)
        f.only("position_embedding_type", "alibi")
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
            is_code=_CODE in f"{raw.get('auto_map')} {raw.get('_name_or_path')}",
        )


class CodeBlock(PostNormBlock):
    """``x = sum_norm(x + norm1(x + attention(x)))``, then ``x = norm2(x + mlp(x))``."""

    def __init__(
        self,
        attention: nn.Module,
        norm1: LayerNorm,
        sum_norm: LayerNorm,
        mlp: nn.Module,
        norm2: LayerNorm,
    ) -> None:
        super().__init__(attention, norm1, mlp, norm2)
        self.sum_norm = sum_norm

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> States:
        """x: (tokens, hidden) -> (tokens, hidden), None."""
        x = self.sum_norm(self.norm1(self.attention(x, batch), x), x)
        return self.norm2(self.mlp(x), x), None


class Model(EncoderTrunk):
    """Post-norm blocks."""

    def __init__(self, config: Config) -> None:
        c, slopes = config, alibi_slopes(config.heads.num_heads)

        def norm() -> LayerNorm:
            return LayerNorm(c.hidden_size, c.eps)

        def block(layer: int) -> PostNormBlock:
            qk_norms = wide_norms(*c.heads, c.eps, is_centred=True, has_bias=True)
            attention = Attention(
                c.hidden_size, c.heads, layer=layer, causal=False, alibi_slopes=slopes,
                qk_norms=qk_norms if c.is_code else None,
            )  # fmt: skip
            mlp = GatedMLP(c.hidden_size, c.intermediate_size, c.activation, down_bias=True)
            if c.is_code:
                return CodeBlock(attention, norm(), norm(), mlp, norm())
            return PostNormBlock(attention, norm(), mlp, norm())

        super().__init__(c, block)

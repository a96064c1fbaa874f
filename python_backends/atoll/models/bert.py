"""BERT, RoBERTa, XLM-RoBERTa, CamemBERT, data2vec of texts, ERNIE, Contriever and DPR, packed.

Learned positions, post-LayerNorm, exact GELU. Source: layer names of transformers' ``BertModel``
and ``RobertaModel``; Devlin et al. 2018, Liu et al. 2019. RoBERTa and its descendants count
positions from pad_token_id + 1 and have one segment. ERNIE may add the vector of a task, the first
wherever none is named. DPR's encoders of questions and of passages are BERT behind a prefix, whose
vectors may be projected.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from atoll.layers import Batch, Embedding
from atoll.layers.encoder import PositionedConfig, PositionedTrunk
from atoll.layers.head_layouts import (
    BERT_CLASSIFIERS,
    BERT_MASKED_LANGUAGES,
    ProjectionLayout,
)
from atoll.models.config_facts import position_offset
from atoll.models.config_fields import known_activation, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="embeddings.word_embeddings",
    complete=("encoder.layer.",),
    # DPR's, then a wrapped model's, torch's DataParallel's and sentence-transformers' own.
    prefixes=(
        "", "bert.", "roberta.", "camembert.", "xlm-roberta.", "data2vec_text.", "ernie.",
        "question_encoder.bert_model.", "ctx_encoder.bert_model.",
        "span_predictor.encoder.bert_model.",
        "model.", "module.", "0.auto_model.",
    ),
    modules={
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "tasks": "embeddings.task_type_embeddings",
        "norm": "embeddings.LayerNorm",
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


# DPR's, of questions, passages, and passages that are read.
_PROJECTION = WeightMap(
    anchor="encode_proj",
    prefixes=("question_encoder.", "ctx_encoder.", "span_predictor.encoder."),
    modules={"linear": "encode_proj"},
)
# Other names of one and the same activation.
_ACTIVATIONS = {"gelu_python": "gelu"}


@dataclass(frozen=True, kw_only=True)
class Config(PositionedConfig):
    """Read from config.json. num_tasks: that have vectors; 0: none has."""

    num_tasks: int

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for positions that are not absolute, and for a causal model."""
        f = Fields(raw)
        f.only("position_embedding_type", "absolute")
        f.only("is_decoder", False)
        f.only("add_cross_attention", False)
        named = f.text("hidden_act", default="gelu")
        hidden_size, offset = f.size("hidden_size"), position_offset(f)
        max_positions = f.size("max_position_embeddings")
        if max_positions <= offset:
            raise f.wrong(f"more than pad_token_id and 1, {offset}", "max_position_embeddings")
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=read_heads(f, hidden_size),
            max_length=max_positions - offset,
            position_offset=offset,
            num_token_types=f.size("type_vocab_size", default=2),
            eps=f.number("layer_norm_eps", default=1e-12),
            activation=known_activation(f, _ACTIVATIONS.get(named, named), "hidden_act"),
            num_tasks=_num_tasks(f),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            classifiers=BERT_CLASSIFIERS,
            masked_language=BERT_MASKED_LANGUAGES,
            vector_projection=_projection(f),
        )


def _num_tasks(fields: Fields) -> int:
    is_ernie = fields.raw.get("model_type") == "ernie"
    if not is_ernie or not fields.flag("use_task_id", default=False):
        return 0
    return fields.size("task_type_vocab_size", default=3)


def _projection(fields: Fields) -> ProjectionLayout | None:
    if fields.raw.get("model_type") != "dpr":
        return None
    size = fields.count("projection_dim", default=0)
    return ProjectionLayout(weights=_PROJECTION, size=size) if size else None


class Model(PositionedTrunk):
    """Post-norm blocks; learned positions."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.tasks: Embedding | None = None
        if config.num_tasks:
            self.tasks = Embedding(config.num_tasks, config.hidden_size)

    def tokens(self, batch: Batch) -> Tensor:
        """The vectors of words, of segments and of the task if there are any, (tokens, hidden)."""
        out = super().tokens(batch)
        return out if self.tasks is None else out + self.tasks.weight[0]

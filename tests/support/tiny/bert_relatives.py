"""Tiny encoders built like BERT, with positions, embeddings or layers of their own."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import transformers as hf
from torch import nn

from tiny.checkpoint import Variant
from tiny.encoder_sizes import SIZES, VOCAB


class Relative(NamedTuple):
    """The classes of a model_type, and what its tiny config has."""

    config: Any
    trunk: Any
    classifier: Any
    filler: Any
    options: dict[str, Any]


RELATIVES = {
    "mpnet": Relative(
        hf.MPNetConfig, hf.MPNetModel, hf.MPNetForSequenceClassification, hf.MPNetForMaskedLM, SIZES
    ),
    "distilbert": Relative(
        hf.DistilBertConfig, hf.DistilBertModel, hf.DistilBertForSequenceClassification,
        hf.DistilBertForMaskedLM,
        {
            "vocab_size": VOCAB, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 80,
            "max_position_embeddings": 70,
        },
    ),
    "electra": Relative(
        hf.ElectraConfig, hf.ElectraModel, hf.ElectraForSequenceClassification,
        hf.ElectraForMaskedLM, {**SIZES, "embedding_size": 32},
    ),
    "albert": Relative(
        hf.AlbertConfig, hf.AlbertModel, hf.AlbertForSequenceClassification, hf.AlbertForMaskedLM,
        {**SIZES, "embedding_size": 32, "num_hidden_layers": 5, "num_hidden_groups": 2},
    ),
    "data2vec": Relative(
        hf.Data2VecTextConfig, hf.Data2VecTextModel, hf.Data2VecTextForSequenceClassification,
        hf.Data2VecTextForMaskedLM, {**SIZES, "type_vocab_size": 1},
    ),
    "ernie": Relative(
        hf.ErnieConfig, hf.ErnieModel, hf.ErnieForSequenceClassification, hf.ErnieForMaskedLM,
        {**SIZES, "use_task_id": True},
    ),
}  # fmt: skip


def _built(kind: str, part: str, **options: Any) -> nn.Module:
    found = RELATIVES[kind]
    model: nn.Module = getattr(found, part)(found.config(**{**found.options, **options}))
    return model


def _variant(kind: str, part: str, name: str | None = None, **options: Any) -> Variant:
    return Variant(name or kind, partial(_built, kind, part, **options))


TRUNKS = [
    *(_variant(kind, "trunk") for kind in RELATIVES),
    # google/electra-base-discriminator's are as wide as its layers.
    _variant("electra", "trunk", "electra-wide", embedding_size=48),
    _variant("albert", "trunk", "albert-inner", inner_group_num=2),
]
FILLERS = [_variant(kind, "filler") for kind in RELATIVES]


def classifiers(num_labels: int) -> list[Variant]:
    """A classifier of each."""
    return [_variant(kind, "classifier", num_labels=num_labels) for kind in RELATIVES]

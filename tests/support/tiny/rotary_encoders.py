"""Tiny encoders with rotary positions, as transformers saves them and as they were published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import (
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    ModernBertModel,
)

from tiny.checkpoint import Variant

_SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 70,
    "pad_token_id": 0,
}
_NO_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
_BIASES = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True)
# As published: layers by their distance, and a theta by name for each kind.
_MODERN_OLD: Mapping[str, Any] = {
    **_SIZES,
    "architectures": ["ModernBertModel"],
    "model_type": "modernbert",
    "hidden_activation": "gelu",
    "norm_eps": 1e-5,
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 500.0,
    "local_rope_theta": 50.0,
    "local_attention": 8,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
}


def _modern(model: Any = ModernBertModel, **options: Any) -> nn.Module:
    given = {**_SIZES, **_NO_TOKENS, "local_attention": 8, **options}
    built: nn.Module = model(ModernBertConfig(**given))
    return built


TRUNKS = [
    Variant("modernbert", _modern),
    Variant(
        "modernbert-old",
        lambda: _modern(
            global_attn_every_n_layers=2, global_rope_theta=500.0, local_rope_theta=50.0
        ),
        config=_MODERN_OLD,
    ),
    Variant("modernbert-biases", lambda: _modern(**_BIASES)),
]


def classifiers(num_labels: int) -> list[Variant]:
    """ModernBERT's, by the mean of the tokens and by the first one."""
    model = ModernBertForSequenceClassification
    return [
        Variant(
            "modernbert-mean",
            lambda: _modern(model, num_labels=num_labels, classifier_pooling="mean"),
        ),
        Variant("modernbert-cls", lambda: _modern(model, num_labels=num_labels, **_BIASES)),
    ]


MASKED = [
    Variant("modernbert", lambda: _modern(ModernBertForMaskedLM)),
    Variant("modernbert-no-bias", lambda: _modern(ModernBertForMaskedLM, decoder_bias=False)),
]

"""Tiny encoders with rotary positions, as transformers saves them and as they were published."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import (
    GteConfig,
    GteForMaskedLM,
    GteForSequenceClassification,
    GteModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    ModernBertModel,
    NomicBertConfig,
    NomicBertForMaskedLM,
    NomicBertForSequenceClassification,
    NomicBertModel,
)

from tiny.checkpoint import Tensors, Variant

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


def _gte(model: Any = GteModel, **options: Any) -> nn.Module:
    built: nn.Module = model(GteConfig(**{**_SIZES, **options}))
    return built


def _set_ntk(model: Any, tensors: Tensors) -> None:
    """The rotation of ``rope_scaling`` of type ntk, by 8, which transformers does not know."""
    rotary, dim = model.rotary_emb, 12
    exponents = torch.arange(0, dim, 2, dtype=torch.float64) / dim
    rotary.inv_freq = (1 / ((8 * 500.0) ** exponents * 8 ** (2 / dim))).float()


def nomic_bert(model: Any = NomicBertModel, **options: Any) -> nn.Module:
    built: nn.Module = model(NomicBertConfig(**{**_SIZES, **options}))
    return built


def _new_names() -> nn.Module:
    """Saved with the names of its own modules instead of the published ones."""
    model: Any = nomic_bert()
    model.save_pretrained = partial(model.save_pretrained, save_original_format=False)
    return model  # type: ignore[no-any-return]


# As published, which means other numbers by absent keys than transformers' class does.
_GTE_OLD: Mapping[str, Any] = {
    **_SIZES,
    "architectures": ["NewModel"],
    "model_type": "new",
    "hidden_act": "gelu",
    "layer_norm_type": "layer_norm",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "rope",
    "num_hidden_layers": 1,
    "rope_theta": 500.0,
    "rope_scaling": None,
    "type_vocab_size": 0,
    "pack_qkv": True,
    "logn_attention_scale": False,
    "logn_attention_clip1": False,
    "torch_dtype": "float16",
}
NOMIC_OLD: Mapping[str, Any] = {
    "architectures": ["NomicBertModel"],
    "model_type": "nomic_bert",
    "vocab_size": 90,
    "pad_vocab_size_multiple": 32,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 4,
    "n_inner": 56,
    "n_positions": 70,
    "max_trained_positions": 20,
    "max_position_embeddings": 20,
    "activation_function": "swiglu",
    "layer_norm_epsilon": 1e-12,
    "type_vocab_size": 2,
    "rotary_emb_base": 500,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": 2,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "prenorm": False,
    "causal": False,
    "use_rms_norm": False,
}

# Sees all of a short text, and not all of a longer one.
WIDE_WINDOW = Variant("modernbert-wide", lambda: _modern(local_attention=24))
TRUNKS = [
    Variant("modernbert", _modern),
    Variant(
        "modernbert-old",
        lambda: _modern(
            global_attn_every_n_layers=2, global_rope_theta=500.0, local_rope_theta=50.0
        ),
        config=_MODERN_OLD,
    ),
    Variant("gte", _gte),
    Variant(
        "gte-new",
        lambda: _gte(num_hidden_layers=1, type_vocab_size=0, rope_parameters={"rope_theta": 500.0}),
        config=_GTE_OLD,
    ),
    Variant(
        "gte-ntk",
        lambda: _gte(num_hidden_layers=1, type_vocab_size=0),
        lambda tensors: {f"new.{name}": tensor for name, tensor in tensors.items()},
        config={**_GTE_OLD, "rope_scaling": {"factor": 8.0, "type": "ntk"}},
        hooks=_set_ntk,
    ),
    Variant("nomic", nomic_bert),
    Variant("nomic-new-names", _new_names),
    Variant(
        "nomic-old",
        lambda: nomic_bert(
            max_position_embeddings=20,
            rope_parameters={"rope_theta": 500.0, "rope_type": "dynamic", "factor": 2.0},
        ),
        config=NOMIC_OLD,
    ),
]


def classifiers(num_labels: int) -> list[Variant]:
    """ModernBERT's by the mean of the tokens and by the first one, and the others'."""
    model = ModernBertForSequenceClassification
    gte, nomic = GteForSequenceClassification, NomicBertForSequenceClassification
    return [
        Variant(
            "modernbert-mean",
            lambda: _modern(model, num_labels=num_labels, classifier_pooling="mean"),
        ),
        Variant("modernbert-cls", lambda: _modern(model, num_labels=num_labels, **_BIASES)),
        Variant("gte", lambda: _gte(gte, num_labels=num_labels)),
        Variant("nomic", lambda: nomic_bert(nomic, num_labels=num_labels)),
    ]


MASKED = [
    Variant("modernbert", lambda: _modern(ModernBertForMaskedLM)),
    Variant("modernbert-no-bias", lambda: _modern(ModernBertForMaskedLM, decoder_bias=False)),
    Variant("gte", lambda: _gte(GteForMaskedLM)),
    Variant("nomic", lambda: nomic_bert(NomicBertForMaskedLM)),
]

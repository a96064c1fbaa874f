"""Encoders: BERT and its relatives, and how the vectors of their tokens become one.

XLM-RoBERTa's and RoBERTa's positions are without the rows that stand before the first one, with
which they are BERT's. A file has no classifier but RoBERTa's and ModernBERT's: BERT's pooler, which
comes before its own, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.errors import UnsupportedModel
from atoll.weights.gguf.architecture import Architecture, Source
from atoll.weights.gguf.file import INSTEAD, GgufFile

# llama.cpp's numbers of poolings -> sentence-transformers' keys; 0 is none, and 4 a classifier.
_POOLINGS = {1: "mean_tokens", 2: "cls_token", 3: "lasttoken"}
_NONE, _RANK = 0, 4
_KEYS: dict[str, str | None] = {
    "attention.causal": None, "attention.head_count_kv": None, "classifier.output_labels": None,
}  # fmt: skip
_EPSILON = {"attention.layer_norm_epsilon": "layer_norm_eps"}


def pooling_files(file: GgufFile) -> dict[str, Any]:
    """How a file's model pools, as sentence-transformers writes it: name -> what is in it as JSON.

    None for a model that does not pool. Vectors get the length 1, as from llama.cpp's server.

    Raises:
        UnsupportedModel: a pooling that is not known, or a generator that ranks by it.
    """
    key = f"{file.architecture}.pooling_type"
    kind = file.metadata.get(key, _NONE)
    if kind == _NONE or (kind == _RANK and file.architecture in ENCODER_ARCHITECTURES):
        return {}
    if kind not in _POOLINGS:
        raise UnsupportedModel(
            f"{file.path}: {key} is {kind}; supported: 0 to 3 (none, mean, first and last token), "
            f"and 4, a classifier, of encoders{INSTEAD}"
        )
    names = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (path, name) in enumerate(names.items())
    ]
    width = file.number(f"{file.architecture}.embedding_length")
    flags = {f"pooling_mode_{name}": name == _POOLINGS[kind] for name in _POOLINGS.values()}
    length = file.number(f"{file.architecture}.context_length")
    return {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": width, **flags},
        "sentence_bert_config.json": {"max_seq_length": length},
    }


def _check(file: GgufFile) -> None:
    key = f"{file.architecture}.attention.causal"
    if file.metadata.get(key, False):
        raise UnsupportedModel(f"{file.path}: {key} is true; supported: false, of an encoder")


def _segments(file: GgufFile, config: dict[str, Any]) -> None:
    config["type_vocab_size"] = file.require_tensor("token_types.weight").shape[0]


def _classifier(file: GgufFile, config: dict[str, Any], hub_class: str) -> None:
    """A file that ranks has a head with one score, or one of each label."""
    if file.metadata.get(f"{file.architecture}.pooling_type") != _RANK:
        return
    count = file.require_tensor("cls.output.weight").shape[0]
    labels = file.metadata.get(f"{file.architecture}.classifier.output_labels")
    if labels is None or len(labels) != count:
        labels = [f"LABEL_{i}" for i in range(count)]
    config |= {
        "architectures": [hub_class], "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }  # fmt: skip


def _bert(file: GgufFile, config: dict[str, Any]) -> None:
    _check(file)
    _segments(file, config)
    _classifier(file, config, "RobertaForSequenceClassification")


def _jina(file: GgufFile, config: dict[str, Any]) -> None:
    _check(file)
    _segments(file, config)
    if file.has("attn_q_norm.weight"):
        raise UnsupportedModel(
            f"{file.path}: it has norms of queries, as jina-embeddings-v2-base-code and "
            f"jina-reranker-v1, which are not supported as GGUF files{INSTEAD}"
        )
    config["model_max_length"] = config["max_position_embeddings"]


def _nomic(file: GgufFile, config: dict[str, Any]) -> None:
    _check(file)
    _segments(file, config)
    config["rotary_emb_base"] = float(file.require("nomic-bert.rope.freq_base"))


def _modern(file: GgufFile, config: dict[str, Any]) -> None:
    _check(file)
    config["global_rope_theta"] = float(file.require("modern-bert.rope.freq_base"))
    _classifier(file, config, "ModernBertForSequenceClassification")
    config["classifier_pooling"] = "cls"


_HEAD = {"classifier": (Source(("cls.output",)),)}

ENCODER_ARCHITECTURES: Mapping[str, Architecture] = {
    "bert": Architecture(
        "bert", "BertModel", has_head_dim=False, has_rope=False, keys={**_KEYS, **_EPSILON},
        constants={"hidden_act": "gelu"}, finish=_bert,
        # The table would take RoBERTa's dense layer for BERT's classifier, which no file has whole.
        places={"classifier": ()},
    ),
    "jina-bert-v2": Architecture(
        "bert", "BertModel", has_head_dim=False, has_rope=False, keys={**_KEYS, **_EPSILON},
        constants={"position_embedding_type": "alibi", "feed_forward_type": "geglu"}, finish=_jina,
        # Older files have the gate apart.
        places={
            "encoder.layer.{i}.mlp.gated_layers": (
                Source(("ffn_gate", "ffn_up")), Source(("ffn_up",)),
            ),
        },
    ),
    "nomic-bert": Architecture(
        "nomic_bert", "NomicBertModel", has_head_dim=False, has_rope=False,
        required=("rope.freq_base",),
        keys={
            **_KEYS, "context_length": "n_positions", "embedding_length": "n_embd",
            "block_count": "n_layer", "feed_forward_length": "n_inner", "attention.head_count":
            "n_head", "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        constants={
            "activation_function": "swiglu", "qkv_proj_bias": False, "mlp_fc1_bias": False,
            "mlp_fc2_bias": False, "prenorm": False, "causal": False,
        },
        finish=_nomic,
    ),
    "modern-bert": Architecture(
        "modernbert", "ModernBertModel", has_head_dim=False, has_rope=False,
        required=("attention.sliding_window", "attention.sliding_window_pattern",
                  "rope.freq_base", "rope.freq_base_swa"),
        keys={
            **_KEYS, "attention.layer_norm_epsilon": "norm_eps", "hidden_activation":
            "hidden_activation", "attention.sliding_window": "local_attention",
            "attention.sliding_window_pattern": "global_attn_every_n_layers",
            "rope.freq_base_swa": "local_rope_theta",
        },
        constants={"hidden_activation": "gelu"}, finish=_modern, places=_HEAD,
        flags={
            "norm_bias": "output_norm.bias", "attention_bias": "attn_qkv.bias",
            "mlp_bias": "ffn_up.bias", "classifier_bias": "cls.bias",
        },
    ),
}  # fmt: skip

"""Tiny encoders of every family, in every layout that is found in the wild, and a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    CamembertConfig,
    CamembertForSequenceClassification,
    CamembertModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from tiny import bert_relatives, debertas, rotary_encoders
from tiny.checkpoint import Tensors, Variant
from tiny.decoders import DECODERS
from tiny.encoder_sizes import SIZES, VOCAB

_FAMILIES: dict[str, tuple[Any, Any, Any]] = {
    "roberta": (RobertaConfig, RobertaModel, RobertaForSequenceClassification),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel, XLMRobertaForSequenceClassification),
    "camembert": (CamembertConfig, CamembertModel, CamembertForSequenceClassification),
}


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    """Every name behind a prefix."""
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def _old_names(tensors: Tensors) -> Tensors:
    """gamma and beta, position ids as a tensor, no pooler, another head's tensors."""
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
        if "pooler" not in name
    }
    renamed["embeddings.position_ids"] = torch.arange(70)[None]
    renamed["cls.predictions.bias"] = torch.zeros(VOCAB)
    return renamed


def _half(tensors: Tensors) -> Tensors:
    return {name: tensor.half() for name, tensor in tensors.items()}


def _bert(**options: Any) -> Callable[[], nn.Module]:
    return lambda: BertModel(BertConfig(**{**SIZES, **options}))


def _roberta(model: Any, config: Any, **options: Any) -> nn.Module:
    built: nn.Module = model(config(**SIZES, pad_token_id=1, type_vocab_size=1, **options))
    return built


TRUNKS: list[Variant] = [
    Variant("bert", _bert()),
    Variant("bert-prefixed", _bert(), prefixed("bert.")),
    Variant("bert-old-names", _bert(), _old_names),
    Variant("bert-half", _bert(), _half),
    Variant("bert-tanh-gelu", _bert(hidden_act="gelu_new")),
    Variant("bert-12-heads", _bert(num_attention_heads=12)),
    *(
        Variant(kind, partial(_roberta, model, config))
        for kind, (config, model, _) in _FAMILIES.items()
    ),
    Variant(
        "camembert-prefixed",
        partial(_roberta, CamembertModel, CamembertConfig),
        prefixed("roberta."),
    ),
    *bert_relatives.TRUNKS,
    *rotary_encoders.TRUNKS,
    *debertas.TRUNKS,
]


def classifiers(num_labels: int) -> list[Variant]:
    """A classifier of every family; one label makes a reranker."""
    bert = Variant(
        "bert", lambda: BertForSequenceClassification(BertConfig(**SIZES, num_labels=num_labels))
    )
    others = [
        Variant(kind, partial(_roberta, model, config, num_labels=num_labels))
        for kind, (config, _, model) in _FAMILIES.items()
    ]
    related = (bert_relatives, rotary_encoders, debertas)
    return [bert, *others, *(v for found in related for v in found.classifiers(num_labels))]


def token_classifiers(num_labels: int) -> list[Variant]:
    """A token classifier of every family, with the config of its classifier of texts."""
    return [
        replace(variant, build=partial(_of_tokens, variant)) for variant in classifiers(num_labels)
    ]


def _of_tokens(variant: Variant, **changes: Any) -> Any:
    config = variant.build().config
    config.update(changes)
    return AutoModelForTokenClassification.from_config(config)


def decoders_of_tokens(num_labels: int) -> list[Variant]:
    """Decoders that score tokens, by either name of their head."""
    kinds = ("llama", "mistral-window", "qwen2", "qwen3-moe", "gpt2", "gpt-neox", "falcon-7b")
    return [
        Variant(v.name, partial(_of_tokens, v, num_labels=num_labels))
        for v in DECODERS
        if v.name in kinds
    ]


MASKED = Variant("splade", lambda: BertForMaskedLM(BertConfig(**SIZES)))
# A model of every family whose head scores words.
FILLERS = [MASKED, *bert_relatives.FILLERS, *rotary_encoders.MASKED, *debertas.FILLERS]


class JinaReference(nn.Module):
    """JinaBERT v2 from its description, dense and per text, sharing no code with Atoll.

    Tensors have the names of the published checkpoints. ALiBi is symmetric; slopes of a head count
    that is no power of two interleave those of the next one. The MLP activates its first half.
    """

    def __init__(
        self, num_heads: int, hidden: int = 48, inner: int = 56, layers: int = 2,
        gate: str = "geglu",
    ) -> None:  # fmt: skip
        super().__init__()
        self.activation = {"geglu": F.gelu, "reglu": F.relu}[gate]
        self.num_heads, self.inner, self.num_layers = num_heads, inner, layers
        sizes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (VOCAB, hidden),
            "embeddings.token_type_embeddings.weight": (2, hidden),
            "embeddings.LayerNorm.weight": (hidden,),
            "embeddings.LayerNorm.bias": (hidden,),
        }
        for i in range(layers):
            layer = f"encoder.layer.{i}."
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                sizes[f"{layer}attention.{part}.weight"] = (hidden, hidden)
                sizes[f"{layer}attention.{part}.bias"] = (hidden,)
            sizes[f"{layer}mlp.gated_layers.weight"] = (2 * inner, hidden)
            sizes[f"{layer}mlp.wo.weight"] = (hidden, inner)
            sizes[f"{layer}mlp.wo.bias"] = (hidden,)
            for norm in ("attention.output.LayerNorm", "mlp.layernorm"):
                sizes[f"{layer}{norm}.weight"] = sizes[f"{layer}{norm}.bias"] = (hidden,)
        generator = torch.Generator().manual_seed(3)
        self.tensors: Tensors = {}
        for name, shape in sizes.items():
            noise = torch.randn(shape, generator=generator)
            scale = 2 / shape[-1] ** 0.5 if len(shape) > 1 else 0.1
            is_norm_weight = len(shape) == 1 and name.endswith("weight")
            self.tensors[name] = noise * scale + float(is_norm_weight)
        self.config = {
            "architectures": ["JinaBertForMaskedLM"],
            "model_type": "bert",
            "vocab_size": VOCAB,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": num_heads,
            "max_position_embeddings": 8192,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "position_embedding_type": "alibi",
            "feed_forward_type": gate,
            "auto_map": {
                "AutoModel": "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel"
            },
        }

    def slopes(self) -> list[float]:
        """Head by head; 12 heads: 2^-1 ... 2^-8, then 2^-.5, 2^-1.5, 2^-2.5, 2^-3.5."""
        power = 2 ** (self.num_heads.bit_length() - 1)
        first = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
        more = [2.0 ** (-8 * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
        return first + more[: self.num_heads - power]

    def hidden(
        self, ids: list[int], dtype: torch.dtype = torch.float64, num_attended: int | None = None
    ) -> Tensor:
        """ids: one text -> (tokens, hidden). num_attended: of its first tokens; None: all."""
        w = {name: tensor.to(dtype) for name, tensor in self.tensors.items()}

        def norm(x: Tensor, name: str) -> Tensor:
            return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

        def dense(x: Tensor, name: str) -> Tensor:
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        words, types = (
            "embeddings.word_embeddings.weight",
            "embeddings.token_type_embeddings.weight",
        )
        x = norm(w[words][torch.tensor(ids)] + w[types][0], "embeddings.LayerNorm")
        position = torch.arange(len(ids))
        distance = (position[:, None] - position[None, :]).abs().to(dtype)
        bias = -torch.tensor(self.slopes(), dtype=dtype)[:, None, None] * distance
        if num_attended is not None:
            bias[..., num_attended:] = float("-inf")
        for i in range(self.num_layers):
            layer = f"encoder.layer.{i}"
            shape = (len(ids), self.num_heads, -1)
            q, k, v = (
                dense(x, f"{layer}.attention.self.{part}").view(shape).transpose(0, 1)
                for part in ("query", "key", "value")
            )
            attention = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + bias).softmax(-1)
            mixed = (attention @ v).transpose(0, 1).reshape(len(ids), -1)
            mixed = dense(mixed, f"{layer}.attention.output.dense")
            x = norm(x + mixed, f"{layer}.attention.output.LayerNorm")
            gated = x @ w[f"{layer}.mlp.gated_layers.weight"].T
            gate = self.activation(gated[:, : self.inner]) * gated[:, self.inner :]
            x = norm(x + dense(gate, f"{layer}.mlp.wo"), f"{layer}.mlp.layernorm")
        return x


def has_segments(folder: Path) -> bool:
    """Whether the model in the folder, if it is there, has vectors for both texts of a pair."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    return bool(config.get("type_vocab_size") != 1)


def write_text_files(
    folder: Path, pooling: str | None = None, prompts: dict[str, str] | None = None
) -> None:
    """A WordPiece-like tokenizer of single characters with [CLS] and [SEP], and pooling files."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = [chr(code) for code in range(33, 33 + VOCAB - len(special))]
    vocabulary = {token: i for i, token in enumerate([*special, *characters])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    core.add_special_tokens(special)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    core.save(str(folder / "tokenizer.json"))
    texts: dict[str, Any] = {"cls_token": "[CLS]"}
    if not has_segments(folder):
        texts["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(texts))
    if pooling is not None:
        key = {"cls": "cls_token", "mean": "mean_tokens", "last-token": "lasttoken"}[pooling]
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{key}": True}))
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
        modules = [
            {"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds)
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
    if prompts is not None:
        text = json.dumps({"prompts": prompts})
        (folder / "config_sentence_transformers.json").write_text(text)

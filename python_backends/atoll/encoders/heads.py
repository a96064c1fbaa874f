"""The heads of encoders: classification, SPLADE's masked language head, Dense.

A head is a module with its own weight map, loaded from the same checkpoint as the trunk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atoll.errors import UnsupportedModel, WeightError
from atoll.layers import Embedding, LayerNorm, Linear
from atoll.weights.json_fields import ConfigKeys, Fields
from atoll.weights.layer_tensors import LayerTensors, Mismatch
from atoll.weights.load import LoadOptions, load_weights
from atoll.weights.modules import read_object
from atoll.weights.reader import CheckpointReader
from atoll.weights.weight_map import FirstOf, WeightMap
from atoll_kernels import activate

# BERT's names, then RoBERTa's.
CLASSIFIERS = (
    WeightMap(
        anchor="classifier",
        modules={
            "dense": FirstOf("pooler.dense", "bert.pooler.dense"),
            "classifier": "classifier",
        },
    ),
    WeightMap(
        anchor="classifier.out_proj",
        modules={"dense": "classifier.dense", "classifier": "classifier.out_proj"},
    ),
)
MASKED_LANGUAGE = (
    WeightMap(
        anchor="cls.predictions.transform.dense",
        modules={
            "dense": "cls.predictions.transform.dense",
            "norm": "cls.predictions.transform.LayerNorm",
        },
    ),
    WeightMap(
        anchor="lm_head.dense",
        modules={
            "dense": "lm_head.dense",
            "norm": "lm_head.layer_norm",
        },
    ),
)
DENSE = WeightMap(anchor="linear", modules={"linear": "linear"})

# Class in the config of a sentence-transformers Dense module -> activation.
_DENSE_ACTIVATIONS = {
    "Identity": None, "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu"
}  # fmt: skip


class ClassificationHead(nn.Module):
    """classifier(tanh(dense(first token))): BERT calls the dense layer its pooler."""

    def __init__(self, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        self.config = None
        self.dense = Linear(hidden_size, hidden_size, quantizable=False)
        self.classifier = Linear(hidden_size, num_labels, quantizable=False)

    @classmethod
    def load(
        cls, folder: Path, hidden_size: int, num_labels: int, options: LoadOptions
    ) -> ClassificationHead:
        """Raises WeightError: a tensor is missing or misshapen."""
        with torch.device("meta"):
            head = cls(hidden_size, num_labels)
        try:
            load_weights(head, CLASSIFIERS, folder, options)
        except Mismatch as error:
            labels = f"config.json has {num_labels} labels (id2label, num_labels)"
            raise WeightError(f"{error}; {labels}") from error
        return head

    def forward(self, first: Tensor) -> Tensor:
        """first: (num_seqs, hidden), the first token of each text -> (num_seqs, num_labels)."""
        out: Tensor = self.classifier(self.dense(first, "tanh"))
        return out


class MaskedLanguageHead(nn.Module):
    """Scores for every word of the vocabulary per token: decoder(norm(act(dense))) + bias."""

    def __init__(self, hidden_size: int, vocab_size: int, eps: float, activation: str) -> None:
        super().__init__()
        self.config = None
        self.activation = activation
        self.dense = Linear(hidden_size, hidden_size, quantizable=False)
        self.norm = LayerNorm(hidden_size, eps)
        self.decoder: Linear | None = None

    @classmethod
    def load(cls, folder: Path, trunk: Any, options: LoadOptions) -> MaskedLanguageHead:
        """The decoder shares the trunk's word embeddings if the checkpoint has no others.

        Raises:
            WeightError: a tensor is missing or misshapen.
        """
        c = trunk.config
        with torch.device("meta"):
            head = cls(c.hidden_size, c.vocab_size, c.eps, c.activation)
        reader = CheckpointReader(folder)
        if "lm_head.dense.weight" in reader:
            head.activation = "gelu"  # RoBERTa's head ignores hidden_act
        load_weights(head, MASKED_LANGUAGE, folder, options)
        stem = "lm_head" if "lm_head.dense.weight" in reader else "cls.predictions"
        own = LayerTensors(reader, "", f"{stem}.decoder", None, "decoder")
        words: Embedding = trunk.words
        with torch.device("meta"):
            decoder = Linear(c.hidden_size, c.vocab_size)
            if own.has("weight") or not c.tie_word_embeddings:
                words = Embedding(c.vocab_size, c.hidden_size)
        if words is not trunk.words:
            words.load(own, options)
        # Newer files also have the bias next to the decoder's weight, older ones only above it.
        above = LayerTensors(reader, "", stem, None, "decoder")
        decoder.load_tied(words, own if own.has("bias") else above, options)
        head.decoder = decoder
        return head

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: (tokens, hidden) -> (tokens, vocab)."""
        assert self.decoder is not None, "load() comes first"
        out: Tensor = self.decoder(self.norm(activate(self.dense(hidden), self.activation)))
        return out


class DenseHead(nn.Module):
    """A sentence-transformers Dense module after pooling."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str | None,
        dtype: torch.dtype,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.config, self.activation, self.dtype = None, activation, dtype
        self.linear = Linear(in_features, out_features, bias, quantizable=False)
        self.in_features, self.out_features = in_features, out_features

    @classmethod
    def load(cls, folder: Path, options: LoadOptions) -> DenseHead:
        """Raises ConfigError, UnsupportedModel, WeightError: the module cannot be used."""
        path = folder / "config.json"
        raw = ConfigKeys(read_object(path))
        fields, default = Fields(raw, str(path)), "sentence_embedding"
        # sentence-transformers' default.
        name = fields.text("activation_function", default="Tanh", nullable=True).rsplit(".", 1)[-1]
        if name not in _DENSE_ACTIVATIONS:
            raise fields.wrong(f"one of {', '.join(_DENSE_ACTIVATIONS)}", "activation_function")
        source = fields.text("module_input_name", default=default, nullable=True)
        is_residual = fields.flag("use_residual", default=False, nullable=True)
        if source != default or is_residual:
            raise UnsupportedModel(
                f"{folder}: a Dense module with module_input_name {source!r} and use_residual "
                f"{is_residual} is not supported"
            )
        sizes = fields.size("in_features"), fields.size("out_features")
        bias = fields.flag("bias", default=True)
        with torch.device("meta"):
            head = cls(*sizes, _DENSE_ACTIVATIONS[name], options.dtype, bias)
        try:
            load_weights(head, DENSE, folder, options)
        except Mismatch as error:
            raise WeightError(f"{error}; {raw.summary()}") from error
        return head

    def forward(self, vectors: Tensor) -> Tensor:
        """(num_seqs, in_features) -> (num_seqs, out_features), both float32."""
        out: Tensor = self.linear(vectors.to(self.dtype), self.activation)
        return out.float()

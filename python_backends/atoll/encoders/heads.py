"""The heads of encoders: classification, SPLADE's masked language head, Dense, LayerNorm.

A head is a module with its own weight map, loaded from the same checkpoint as the trunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from atoll.errors import UnsupportedModel, WeightError
from atoll.layers import Embedding, LayerNorm, Linear
from atoll.layers.head_layouts import ClassifierLayout, MaskedLanguageLayout
from atoll.weights.checkpoint import open_checkpoint
from atoll.weights.json_fields import ConfigKeys, Fields
from atoll.weights.layer_tensors import LayerTensors, Mismatch
from atoll.weights.load import LoadOptions, layout, load_weights
from atoll.weights.modules import read_object
from atoll.weights.weight_map import WeightMap
from atoll_kernels import activate

DENSE = WeightMap(anchor="linear", modules={"linear": "linear", "residual": "residual"})
_NORM = WeightMap(anchor="norm", modules={"norm": "norm"})

# Class in the config of a sentence-transformers Dense module -> activation.
_DENSE_ACTIVATIONS = {
    "Identity": None, "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu"
}  # fmt: skip


class ClassificationHead(nn.Module):
    """Scores of a text's or a token's vector for every label; see ``ClassifierLayout``."""

    def __init__(self, hidden_size: int, num_labels: int, layout: ClassifierLayout) -> None:
        super().__init__()
        self.config, self.activation = None, layout.activation
        self.pooling = layout.pooling
        self.dense = self.norm = None
        if layout.has_dense:
            self.dense = Linear(hidden_size, hidden_size, layout.dense_bias, quantizable=False)
        if layout.norm_eps is not None:
            self.norm = LayerNorm(hidden_size, layout.norm_eps, layout.norm_bias)
        bias = layout.classifier_bias
        self.classifier = Linear(hidden_size, num_labels, bias, quantizable=False)

    @classmethod
    def load(
        cls,
        folder: Path,
        config: Any,
        num_labels: int,
        options: LoadOptions,
        *,
        of_tokens: bool = False,
    ) -> ClassificationHead:
        """config: the trunk's. of_tokens: whether tokens are scored, and not texts.

        Raises:
            UnsupportedModel: the architecture has no such head.
            WeightError: a tensor is missing or misshapen.
        """
        layouts = config.token_classifiers if of_tokens else config.classifiers
        chosen = _chosen(layouts, folder, f"scoring {'tokens' if of_tokens else 'texts'}")
        with torch.device("meta"):
            head = cls(config.hidden_size, num_labels, chosen)
        try:
            load_weights(head, chosen.weights, folder, options)
        except Mismatch as error:
            labels = f"config.json has {num_labels} labels (id2label, num_labels)"
            raise WeightError(f"{error}; {labels}") from error
        return head

    def forward(self, vectors: Tensor) -> Tensor:
        """(rows, hidden), a vector of each text or token -> (rows, num_labels)."""
        if self.dense is not None:
            vectors = self.dense(vectors, self.activation)
        if self.norm is not None:
            vectors = self.norm(vectors)
        out: Tensor = self.classifier(vectors)
        return out


class MaskedLanguageHead(nn.Module):
    """Scores for every word of the vocabulary per token; see ``MaskedLanguageLayout``."""

    def __init__(self, config: Any, layout: MaskedLanguageLayout) -> None:
        super().__init__()
        width = layout.width or config.hidden_size
        self.config, self.width = None, width
        self.activation = layout.activation or config.activation
        self.dense = Linear(config.hidden_size, width, layout.dense_bias, quantizable=False)
        self.norm = LayerNorm(width, config.eps, layout.norm_bias)
        self.decoder: Linear | None = None

    @classmethod
    def load(cls, folder: Path, trunk: Any, options: LoadOptions) -> MaskedLanguageHead:
        """The decoder shares the trunk's word embeddings if the checkpoint has no others.

        Raises:
            UnsupportedModel: the architecture has no such head.
            WeightError: a tensor is missing or misshapen.
        """
        c = trunk.config
        chosen = _chosen(c.masked_language, folder, "scores of words")
        table = chosen.weights
        with torch.device("meta"):
            head = cls(c, chosen)
        load_weights(head, table, folder, options)
        reader = open_checkpoint(folder)
        prefix = table.prefix(reader) or ""
        own, above = (
            LayerTensors(reader, prefix, table.modules[name], None, "decoder")
            for name in ("decoder", "bias")
        )
        words: Embedding = trunk.words
        with torch.device("meta"):
            decoder = Linear(head.width, c.vocab_size, chosen.decoder_bias)
            if own.has("weight") or not c.tie_word_embeddings:
                words = Embedding(c.vocab_size, head.width)
        if words is not trunk.words:
            words.load(own, options)
        # Newer files also have the bias next to the decoder's weight, older ones only above it.
        decoder.load_tied(words, own if own.has("bias") else above, options)
        head.decoder = decoder
        return head

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: (tokens, hidden) -> (tokens, vocab)."""
        assert self.decoder is not None, "load() comes first"
        out: Tensor = self.decoder(self.norm(activate(self.dense(hidden), self.activation)))
        return out


_Layout = TypeVar("_Layout", ClassifierLayout, MaskedLanguageLayout)


def _chosen(layouts: Sequence[_Layout], folder: Path, purpose: str) -> _Layout:
    """The first layout whose tensors the checkpoint has.

    Raises:
        UnsupportedModel: the architecture has none. WeightError: the checkpoint has none of them.
    """
    if not layouts:
        raise UnsupportedModel(f"{folder}: this architecture has no head for {purpose}")
    table, _ = layout(open_checkpoint(folder), [found.weights for found in layouts])
    return next(found for found in layouts if found.weights is table)


class DenseHead(nn.Module):
    """A sentence-transformers Dense module after pooling."""

    size_key = "in_features"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str | None,
        dtype: torch.dtype,
        bias: bool = True,
        has_residual: bool = False,
    ) -> None:
        """has_residual: what comes in is added, through a layer of its own if sizes differ."""
        super().__init__()
        self.config, self.activation, self.dtype = None, activation, dtype
        self.linear = Linear(in_features, out_features, bias, quantizable=False)
        self.in_features, self.out_features = in_features, out_features
        self.has_residual, self.residual = has_residual, None
        if has_residual and in_features != out_features:
            self.residual = Linear(in_features, out_features, False, quantizable=False)

    @classmethod
    def load(
        cls, folder: Path, options: LoadOptions, reads: str = "sentence_embedding"
    ) -> DenseHead:
        """reads: what the module is given, in the words of its file.

        Raises ConfigError, UnsupportedModel, WeightError: the module cannot be used.
        """
        path = folder / "config.json"
        raw = ConfigKeys(read_object(path))
        fields = Fields(raw, str(path))
        # sentence-transformers' default.
        name = fields.text("activation_function", default="Tanh", nullable=True).rsplit(".", 1)[-1]
        if name not in _DENSE_ACTIVATIONS:
            raise fields.wrong(f"one of {', '.join(_DENSE_ACTIVATIONS)}", "activation_function")
        source = fields.text("module_input_name", default=reads, nullable=True)
        is_residual = fields.flag("use_residual", default=False, nullable=True)
        if source != reads:
            raise UnsupportedModel(
                f"{folder}: a Dense module with module_input_name {source!r} is not supported"
            )
        sizes = fields.size("in_features"), fields.size("out_features")
        bias = fields.flag("bias", default=True)
        with torch.device("meta"):
            head = cls(*sizes, _DENSE_ACTIVATIONS[name], options.dtype, bias, is_residual)
        try:
            load_weights(head, DENSE, folder, options)
        except Mismatch as error:
            raise WeightError(f"{error}; {raw.summary()}") from error
        return head

    @classmethod
    def beside_trunk(
        cls,
        folder: Path,
        sizes: tuple[int, int],
        options: LoadOptions,
        weights: WeightMap = DENSE,
        bias: bool = False,
    ) -> DenseHead:
        """A layer that lies beside the trunk's weights, ColBERT's ``linear`` for instance.

        sizes: inputs and outputs. Raises WeightError: it is missing or misshapen.
        """
        with torch.device("meta"):
            head = cls(*sizes, None, options.dtype, bias)
        load_weights(head, weights, folder, options)
        return head

    def forward(self, vectors: Tensor) -> Tensor:
        """(rows, in_features) -> (rows, out_features), both float32."""
        given = vectors.to(self.dtype)
        out: Tensor = self.linear(given, self.activation)
        if self.has_residual:
            out = out + (given if self.residual is None else self.residual(given))
        return out.float()


class NormHead(nn.Module):
    """A sentence-transformers LayerNorm module after pooling."""

    size_key = "dimension"

    def __init__(self, dimension: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.dtype = None, dtype
        self.in_features = self.out_features = dimension
        # torch's default; the file has none.
        self.norm = LayerNorm(dimension, 1e-5)

    @classmethod
    def load(cls, folder: Path, options: LoadOptions) -> NormHead:
        """Raises ConfigError, WeightError: the module cannot be used."""
        path = folder / "config.json"
        raw = ConfigKeys(read_object(path))
        with torch.device("meta"):
            head = cls(Fields(raw, str(path)).size("dimension"), options.dtype)
        try:
            load_weights(head, _NORM, folder, options)
        except Mismatch as error:
            raise WeightError(f"{error}; {raw.summary()}") from error
        return head

    def forward(self, vectors: Tensor) -> Tensor:
        """(rows, dimension), float32, and so is the result."""
        out: Tensor = self.norm(vectors.to(self.dtype))
        return out.float()

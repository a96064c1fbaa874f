"""A loaded encoder: the trunk and the head of its task, which run batches of texts.

Each encoder is called with a batch and its items and returns one result per item, according to the
options of the item's request (``item.options``).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atoll.config import Settings
from atoll.encoders.encoder_config import EncoderConfig
from atoll.encoders.heads import ClassificationHead, DenseHead, MaskedLanguageHead
from atoll.encoders.packer import Item, batch_of
from atoll.encoders.pooling import normalized, pool
from atoll.encoders.short_text_graphs import ShortTexts
from atoll.errors import ConfigError, GenerationError
from atoll.layers import Batch
from atoll.models.detect import decide
from atoll.models.load_options import load_options
from atoll.models.registry import Checkpoint, load_encoder
from atoll.weights.load import LoadOptions
from atoll.weights.modules import check_pooled_size, transformer_folder
from atoll_kernels.device import prepare

Floats = npt.NDArray[np.float32]

logger = logging.getLogger(__name__)

# Quantized layers have separate kernels for each of these sizes, attention one for short texts.
_WARM_UP_TOKENS = (2, 24, 100, 200)
# Tokens whose scores for the whole vocabulary are in memory at once: 512 * 30522 * 4 bytes = 60 MB.
_VOCAB_ROWS = 512


@dataclass(frozen=True)
class EmbedOptions:
    """The options of a request for vectors."""

    normalize: bool = True
    dimensions: int | None = None
    return_token_embeddings: bool = False


@dataclass(frozen=True)
class ScoreOptions:
    """The options of a request for scores. raw: returns the logits."""

    raw: bool = False


class Embedded(NamedTuple):
    """A text's vector, and those of its tokens (tokens, hidden) if requested."""

    vector: Floats
    token_vectors: Floats | None


class Scored(NamedTuple):
    """A text's scores (labels,), and the logits they were computed from, which never saturate."""

    scores: Floats
    logits: Floats


class SparseVector(NamedTuple):
    """The words of the vocabulary with a positive weight."""

    indices: npt.NDArray[np.int32]
    values: Floats


class Encoder(ABC):
    """The trunk of a checkpoint and its configuration.

    folder: the folder with the trunk's files, which may be below the checkpoint's folder.
    """

    task: ClassVar[str]

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Raises ConfigError, UnsupportedModel, WeightError: the checkpoint cannot be used."""
        self.detected = decide(folder, settings, self.task)
        for note in self.detected.notes:
            logger.warning("%s: %s", folder, note)
        checkpoint = Checkpoint.open(transformer_folder(folder))
        self.folder = checkpoint.folder
        self.options: LoadOptions = load_options(settings, checkpoint.raw)
        prepare(self.options.device)
        trunk: Any = load_encoder(checkpoint, self.options)
        check_pooled_size(folder, int(trunk.config.hidden_size))
        self.trunk = trunk
        self.hidden = ShortTexts(trunk, self.options.device, self.options.dtype)
        self.hidden_size = int(trunk.config.hidden_size)
        self.vocab_size = int(trunk.config.vocab_size)
        self.spec = EncoderConfig.read(folder, checkpoint.raw, settings, trunk.max_length)

    @abstractmethod
    def __call__(self, batch: Batch, items: Sequence[Item]) -> list[object]:
        """One result per item; an exception for an item that has failed."""

    @torch.inference_mode()
    def warm_up(self, max_batch_tokens: int) -> None:
        """On a GPU, runs batches of all sizes, so that kernels are compiled before requests arrive.

        Logs a warning if a batch of full size does not fit into memory.
        """
        device, longest = self.options.device, self.spec.max_length
        if device.type != "cuda":
            return
        whole = (longest,) * (max_batch_tokens // longest)
        try:
            for lengths in (*((min(size, longest),) for size in _WARM_UP_TOKENS), whole):
                pack = [Item(np.zeros(length, np.int32), lambda result: None) for length in lengths]
                self.hidden(batch_of(pack, device))
            torch.cuda.synchronize(device)
        except torch.OutOfMemoryError as error:
            logger.warning(
                "packs of max_batch_tokens, %d, do not fit into the GPU's memory now, and will "
                "fail if others do not free some: %s", max_batch_tokens, error,
            )  # fmt: skip
        # Other models may need the memory.
        torch.cuda.empty_cache()


class Embedder(Encoder):
    """Texts to dense vectors."""

    task = "embed"

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        if self.spec.pooling == "splade":
            raise ConfigError("pooling is 'splade'; serve the model with task 'sparse'")
        self.steps: list[Callable[[Tensor], Tensor]] = [
            normalized if path is None else DenseHead.load(path, self.options)
            for path in self.spec.steps
        ]
        width = self.hidden_size * len(self.spec.pooling.split("+"))
        for path, step in zip(self.spec.steps, self.steps, strict=True):
            if isinstance(step, DenseHead):
                if step.in_features != width:
                    raise ConfigError(
                        f"{path}: in_features is {step.in_features}; what it is given has {width}"
                    )
                width = step.out_features
        self.dimensions = width
        asked = self.spec.truncate_dim
        self.truncate_dim = None if asked is None else min(asked, width)

    def __call__(self, batch: Batch, items: Sequence[Item]) -> list[object]:
        """An ``Embedded``, or an error, per item."""
        hidden = self.hidden(batch)
        vectors = pool(hidden, batch.cu_seqlens, self.spec.pooling)
        for step in self.steps:
            vectors = step(vectors)
        vectors = vectors.cpu()
        finite = _finite(vectors)
        is_unit = bool(self.steps) and self.steps[-1] is normalized
        unit = vectors if is_unit else normalized(vectors)
        bounds = batch.cu_seqlens.tolist()
        results: list[object] = []
        for row, item in enumerate(items):
            options: EmbedOptions = item.options
            if not finite[row]:
                results.append(GenerationError("the embedding is not finite (NaN or infinite)"))
                continue
            tokens = None
            if options.return_token_embeddings:
                tokens = hidden[bounds[row] : bounds[row + 1]].float().cpu().numpy()
            vector = _cut(unit[row] if options.normalize else vectors[row], options)
            results.append(Embedded(vector.numpy(), tokens))
        return results


class SparseEmbedder(Encoder):
    """Texts to SPLADE's weights of words (Formal et al. 2021): max of log(1 + relu(score)).

    A checkpoint may replace the maximum by the sum, and apply the logarithm twice.
    """

    task = "sparse"

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        self.head = MaskedLanguageHead.load(self.folder, self.trunk, self.options)

    def __call__(self, batch: Batch, items: Sequence[Item]) -> list[object]:
        """A ``SparseVector``, or an error, per item."""
        hidden = self.hidden(batch)
        bounds = batch.cu_seqlens.tolist()
        return [
            self._weights(hidden[start:stop])
            for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
        ]

    def _weights(self, hidden: Tensor) -> object:
        parts = torch.stack([self._pooled(self.head(r)) for r in hidden.split(_VOCAB_ROWS)])
        is_sum = self.spec.splade.is_sum
        weights = (parts.sum(0) if is_sum else self._logs(parts.amax(0))).cpu()
        if not bool(torch.isfinite(weights).all()):
            return GenerationError("the sparse embedding is not finite (NaN or infinite)")
        if self.spec.max_active_dims is not None and self.spec.max_active_dims < len(weights):
            weights = _only_greatest(weights, self.spec.max_active_dims)
        indices = weights.nonzero().squeeze(1)
        return SparseVector(indices.int().numpy(), weights[indices].numpy())

    def _pooled(self, scores: Tensor) -> Tensor:
        """(tokens, vocab) -> (vocab,); the maximum comes before the logarithm, to save work."""
        return self._logs(scores).sum(0) if self.spec.splade.is_sum else scores.amax(0)

    def _logs(self, scores: Tensor) -> Tensor:
        weights = scores.float().relu()
        for _ in range(self.spec.splade.num_logs):
            weights = weights.log1p()
        return weights


class Classifier(Encoder):
    """Texts or pairs to a score for each label; a reranker has one label."""

    task = "classify"

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        self.head = ClassificationHead.load(
            self.folder, self.hidden_size, len(self.spec.labels), self.options
        )

    def __call__(self, batch: Batch, items: Sequence[Item]) -> list[object]:
        """A ``Scored``, or an error, per item."""
        hidden = self.hidden(batch)
        logits = self.head(hidden[batch.cu_seqlens[:-1].long()]).float().cpu()
        finite, scores = _finite(logits), self._scores(logits)
        return [
            Scored((logits if item.options.raw else scores)[row].numpy(), logits[row].numpy())
            if finite[row]
            else GenerationError("the score is not finite (NaN or infinite)")
            for row, item in enumerate(items)
        ]

    def _scores(self, logits: Tensor) -> Tensor:
        if self.spec.activation == "identity":
            return logits
        if self.spec.activation == "softmax":
            return logits.softmax(-1)
        return logits.tanh() if self.spec.activation == "tanh" else logits.sigmoid()


def _only_greatest(weights: Tensor, count: int) -> Tensor:
    """Sets all but the ``count`` greatest to zero."""
    kept = weights.topk(count).indices
    return torch.zeros_like(weights).scatter(0, kept, weights[kept])


def _finite(rows: Tensor) -> list[bool]:
    found: list[bool] = torch.isfinite(rows).all(-1).tolist()
    return found


def _cut(vector: Tensor, options: EmbedOptions) -> Tensor:
    """The first ``dimensions`` values, normalized again if requested (Matryoshka)."""
    if options.dimensions is None:
        return vector
    short = vector[: options.dimensions]
    return normalized(short) if options.normalize else short

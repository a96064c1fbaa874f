"""What the encoders of all tasks have in common: the trunk of a checkpoint, and its configuration.

Each encoder is called with a batch and its items and returns one result per item, according to the
options of the item's request (``item.options``).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atoll.config import Settings
from atoll.encoders.encoder_config import EncoderConfig
from atoll.encoders.packer import Item, batch_of
from atoll.encoders.short_text_graphs import ShortTexts
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


class Encoder(ABC):
    """The trunk of a checkpoint and its configuration.

    folder: the folder with the trunk's files, which may be below the checkpoint's folder.
    """

    task: ClassVar[str]
    # Whether the tokenizer puts its special tokens around a text.
    adds_special_tokens: ClassVar[bool] = True
    options: LoadOptions

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Raises ConfigError, UnsupportedModel, WeightError: the checkpoint cannot be used."""
        self.detected = decide(folder, settings, self.task)
        for note in self.detected.notes:
            logger.warning("%s: %s", folder, note)
        self.folder = transformer_folder(folder)
        trunk, raw = self.open_trunk(folder, settings)
        check_pooled_size(folder, int(trunk.config.hidden_size))
        self.trunk = trunk
        # A model of transformers comes with the task's head, and its kernels are not recorded.
        self.is_native = self.detected.runs_on == "native"
        self.hidden: Callable[[Batch], Tensor] = trunk
        if self.is_native:
            self.hidden = ShortTexts(trunk, self.options.device, self.options.dtype)
        self.hidden_size = int(trunk.config.hidden_size)
        self.vocab_size = int(trunk.config.vocab_size)
        self.spec = EncoderConfig.read(folder, raw, settings, trunk.max_length)

    def open_trunk(self, folder: Path, settings: Settings) -> tuple[Any, Mapping[str, Any]]:
        """Sets ``options``; returns the trunk, and config.json."""
        checkpoint = Checkpoint.open(self.folder)
        self.options = load_options(settings, checkpoint.raw)
        prepare(self.options.device)
        return self.load_trunk(checkpoint), checkpoint.raw

    def load_trunk(self, checkpoint: Checkpoint) -> Any:
        """The model that gives hidden states."""
        return load_encoder(checkpoint, self.options, self.task)

    @property
    def num_token_types(self) -> int | None:
        """Segments of a text that the model has vectors for; 0: it is given none; None: any."""
        found: int | None = getattr(self.trunk.config, "num_token_types", 0)
        return found if self.spec.has_token_types else 0

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


def finite_rows(rows: Tensor) -> list[bool]:
    """For each row, whether none of its values is infinite or NaN."""
    found: list[bool] = torch.isfinite(rows).all(-1).tolist()
    return found

"""Loads a model, or one rank's part of it, with its adapters but without a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from torch import nn

from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.layers.adapted import AdapterSlots
from atoll.models.families import DECODERS
from atoll.models.load_options import load_options, prepare_process, rescaled
from atoll.models.registry import Checkpoint, architecture, load_decoder
from atoll.runner.lora import attach_adapters
from atoll.runner.lora_config import LoraConfig
from atoll.runner.model import Decoder
from atoll.weights.adapters import adapter_folders
from atoll.weights.load import LoadOptions
from atoll.weights.parts import Shard
from atoll_kernels.device import prepare


@dataclass(frozen=True)
class LoadedModel:
    """A model without its cache. adapters: None if the settings name none."""

    model: Decoder
    adapters: AdapterSlots | None
    checkpoint: Checkpoint
    options: LoadOptions


def load_model(settings: Settings, folder: Path, rank: int = 0, size: int = 1) -> LoadedModel:
    """Reads the weights and the adapters of one rank.

    Args:
        rank: which part of the model. size: number of parts; for more than one,
            torch.distributed's process group must exist.

    Raises:
        ConfigError, UnsupportedModel, WeightError: the checkpoint or a setting cannot be used.
    """
    checkpoint = rescaled(Checkpoint.open(folder), settings)
    options = replace(load_options(settings, checkpoint.raw), shard=Shard(rank, size))
    prepare_process(settings)
    prepare(options.device)
    folders = _adapters(settings)
    model = load_decoder(checkpoint, options)
    adapters = _attach(model, checkpoint, folders, options)
    return LoadedModel(cast(Decoder, model), adapters, checkpoint, options)


def _adapters(settings: Settings) -> dict[str, Path]:
    """The adapters' folders; each is checked as far as possible before the model, which is slow to
    load."""
    folders = adapter_folders(settings.lora_adapters, settings.huggingface_hub_cache)
    if len(folders) > settings.max_loras:
        raise ConfigError(
            f"lora_adapters names {len(folders)} adapters; max_loras is {settings.max_loras}"
        )
    for folder in folders.values():
        LoraConfig.read(folder)
    return folders


def _attach(
    model: nn.Module, checkpoint: Checkpoint, folders: Mapping[str, Path], options: LoadOptions
) -> AdapterSlots | None:
    if not folders:
        return None
    tables = architecture(checkpoint.raw, DECODERS).WEIGHTS
    return attach_adapters(model, tables, checkpoint.folder, folders, options.dtype)

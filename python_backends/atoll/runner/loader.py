"""Loads a checkpoint into a runner: weights, adapters, cache and sampler."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from atoll.config import Settings
from atoll.layers.adapted import AdapterSlots
from atoll.models.detect import decide
from atoll.models.families import DECODERS
from atoll.models.load_options import load_options, prepare_process, rescaled
from atoll.models.registry import Checkpoint, architecture, load_decoder
from atoll.runner.decode_graphs import refusal
from atoll.runner.lora import attach_adapters
from atoll.runner.lora_config import LoraConfig
from atoll.runner.memory import alone_on, longest_request, num_cache_blocks
from atoll.runner.model import Decoder
from atoll.runner.model_runner import ModelRunner
from atoll.sampling.sampler import Sampler
from atoll.sampling.watermark import Watermark
from atoll.weights.adapters import adapter_folders
from atoll.weights.load import LoadOptions
from atoll_kernels.device import prepare

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedRunner:
    """A runner, and what is known of its checkpoint.

    max_cached_tokens: most tokens of a request, whatever its split into prompt and answer.
    banned_tokens: ids that are never generated. facts: shown to users.
    """

    runner: ModelRunner
    max_cached_tokens: int
    banned_tokens: tuple[int, ...]
    facts: Mapping[str, Any]


def load_runner(settings: Settings, folder: Path) -> LoadedRunner:
    """Reads the weights and the adapters, warms up, and sizes the cache.

    Raises:
        ConfigError, UnsupportedModel, WeightError: the checkpoint or a setting cannot be used.
    """
    detected = decide(folder, settings, "generate")
    for note in detected.notes:
        logger.warning("%s: %s", folder, note)
    checkpoint = rescaled(Checkpoint.open(folder), settings)
    options = load_options(settings, checkpoint.raw)
    prepare_process(settings)
    prepare(options.device)
    folders = _adapters(settings)
    model = load_decoder(checkpoint, options)
    adapters = _attach(model, checkpoint, folders, options)
    config: Any = model.config
    decoder = cast(Decoder, model)
    watermark = Watermark(config.vocab_size, settings.watermark_gamma, settings.watermark_delta)
    with alone_on(options.device):
        num_blocks = num_cache_blocks(settings, decoder, options, config.max_positions)
        runner = ModelRunner(
            decoder, Sampler(watermark), num_blocks, settings.block_size, options.device,
            options.dtype,
        )  # fmt: skip
        runner.adapters = adapters
        _capture(runner, settings)
    capacity = longest_request(decoder, num_blocks, settings.block_size)
    facts = {
        "model_type": str(checkpoint.raw.get("model_type")),
        "architectures": checkpoint.raw.get("architectures") or [],
        "dtype": str(options.dtype).removeprefix("torch."),
        "device": str(options.device),
        "max_batch_total_tokens": capacity,
        "adapters": list(runner.adapter_names),
    }
    banned = tuple(token for token in detected.banned_tokens if token < config.vocab_size)
    return LoadedRunner(runner, capacity, banned, facts)


def _adapters(settings: Settings) -> dict[str, Path]:
    """The adapters' folders; each is checked as far as possible before the model, which is slow to
    load."""
    folders = adapter_folders(settings.lora_adapters, settings.huggingface_hub_cache)
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


def _capture(runner: ModelRunner, settings: Settings) -> None:
    """Captures decoding steps as graphs, if this is enabled and possible."""
    reason = refusal(runner.model, runner.device, runner.dtype)
    if settings.cuda_graphs and reason is None:
        runner.buffer_decoding(settings.max_batch_size)
    elif settings.cuda_graphs:
        logger.info("decoding steps are not replayed: %s", reason)

"""A checkpoint as a running engine: weights, cache, sampler, limits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from atoll.config import Settings
from atoll.engine.core import EngineCore
from atoll.engine.scheduler import SchedulerLimits
from atoll.engine.speculation import NgramDraft
from atoll.engine.thread import Engine
from atoll.errors import ConfigError, ValidationError
from atoll.layers.adapted import AdapterSlots
from atoll.models.detect import decide
from atoll.models.families import DECODERS
from atoll.models.load_options import load_options, prepare_process, rescaled
from atoll.models.registry import Checkpoint, architecture, load_decoder
from atoll.runner.decode_graphs import refusal
from atoll.runner.kv_cache import group_windows
from atoll.runner.lora import attach_adapters
from atoll.runner.lora_config import LoraConfig
from atoll.runner.memory import alone_on, longest_request, num_cache_blocks
from atoll.runner.model import Decoder
from atoll.runner.model_runner import ModelRunner
from atoll.sampling.processors import Processors
from atoll.sampling.sampler import Sampler
from atoll.sampling.watermark import Watermark
from atoll.weights.adapters import adapter_folders
from atoll.weights.load import LoadOptions
from atoll_kernels.device import prepare

logger = logging.getLogger(__name__)

# Prompt tokens in a step in which others decode: a tenth of a second on a CPU, less on a GPU.
_MIXED_PREFILL = {"cpu": 128, "cuda": 1024}


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    max_total_tokens: prompt and answer. decoder_start_token_id: of an encoder-decoder, whose answer
    begins with it. banned_tokens: ids that no answer may hold, whatever a request asks for.
    """

    max_input_tokens: int
    max_total_tokens: int
    vocab_size: int
    decoder_start_token_id: int | None = None
    banned_tokens: tuple[int, ...] = ()

    def check_ids(self, name: str, ids: Sequence[int]) -> None:
        """Also for texts: some tokenizers name tokens that their models have no embedding for.

        Raises:
            ValidationError: an id outside the vocabulary.
        """
        size = self.vocab_size
        wrong = next((i for i, token in enumerate(ids) if not 0 <= token < size), None)
        if wrong is not None:
            what = f"input_ids[{wrong}]" if name == "input_ids" else f"token {wrong} of {name}"
            raise ValidationError(f"{what} is {ids[wrong]}; the vocabulary has {size}")


@dataclass(frozen=True)
class LoadedEngine:
    """An engine that is not started yet, what fits into it, and what it is, for people to read."""

    engine: Engine
    limits: Limits
    adapters: AdapterSlots | None
    facts: Mapping[str, Any]


def load_engine(
    settings: Settings, folder: Path, on_step: Callable[[], None] = lambda: None
) -> LoadedEngine:
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
    with alone_on(options.device):
        num_blocks = num_cache_blocks(settings, decoder, options, config.max_positions)
        runner = ModelRunner(
            decoder, num_blocks, settings.block_size, options.device, options.dtype
        )
        runner.adapters = adapters
        _capture(runner, settings)
    watermark = Watermark(config.vocab_size, settings.watermark_gamma, settings.watermark_delta)
    core = EngineCore(
        runner,
        Sampler(Processors(watermark)),
        _scheduler_limits(settings, options.device, group_windows(decoder.cache_specs())[0]),
        prefix_caching=settings.prefix_caching,
        draft=NgramDraft(settings.speculate) if settings.speculate else None,
    )
    engine = Engine(
        core,
        # Serving counts requests itself; some that it has ended are held here for one more step.
        max_concurrent_requests=2 * settings.max_concurrent_requests,
        session_timeout_s=settings.session_timeout_s,
        on_step=on_step,
    )
    capacity = longest_request(decoder, num_blocks, settings.block_size)
    limits = _limits(settings, capacity, config, detected.banned_tokens)
    logger.info(
        "%s: %s on %s, KV cache of %d blocks of %d tokens, %s",
        folder.name, options.dtype, options.device, num_blocks, settings.block_size, limits,
    )  # fmt: skip
    facts = {
        "model_type": str(checkpoint.raw.get("model_type")),
        "architectures": checkpoint.raw.get("architectures") or [],
        "dtype": str(options.dtype).removeprefix("torch."),
        "device": str(options.device),
        "max_batch_total_tokens": capacity,
        "adapters": list(adapters.names) if adapters else [],
    }
    return LoadedEngine(engine, limits, adapters, facts)


def _adapters(settings: Settings) -> dict[str, Path]:
    """Where the adapters are, each read so far as it can be without the model, which takes long."""
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
    """Decoding steps as graphs or tapes, where they are wanted and possible."""
    reason = refusal(runner.model, runner.device, runner.dtype)
    if settings.cuda_graphs and reason is None:
        runner.buffer_decoding(settings.max_batch_size)
    elif settings.cuda_graphs:
        logger.info("decoding steps are not replayed: %s", reason)


def _limits(settings: Settings, capacity: int, config: Any, banned: Sequence[int]) -> Limits:
    if settings.max_total_tokens and settings.max_total_tokens > config.max_positions:
        raise ConfigError(
            f"max_total_tokens is {settings.max_total_tokens}; "
            f"the model has {config.max_positions} positions"
        )
    total = settings.max_total_tokens or min(capacity, config.max_positions)
    longest = settings.max_input_tokens or total - 1
    if longest >= total:
        raise ConfigError(f"max_input_tokens is {longest}; max_total_tokens is {total}")
    start = getattr(config, "decoder_start_token_id", None)
    inside = tuple(token for token in banned if token < config.vocab_size)
    return Limits(longest, total, config.vocab_size, start, inside)


def _scheduler_limits(
    settings: Settings, device: torch.device, sliding_window: int | None
) -> SchedulerLimits:
    return SchedulerLimits(
        max_batch_size=settings.max_batch_size,
        max_batch_prefill_tokens=settings.max_batch_prefill_tokens,
        max_mixed_prefill_tokens=_MIXED_PREFILL.get(device.type, 1024),
        waiting_served_ratio=settings.waiting_served_ratio,
        max_waiting_tokens=settings.max_waiting_tokens,
        sliding_window=sliding_window,
    )

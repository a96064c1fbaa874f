"""Loads a checkpoint into an engine: runner, limits and scheduler."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.config import Settings
from atoll.engine.core import EngineCore
from atoll.engine.limits import EngineLimits
from atoll.engine.speculation import NgramDraft
from atoll.engine.thread import Engine
from atoll.errors import ConfigError
from atoll.runner.live_adapters import LiveAdapters
from atoll.runner.loader import LoadedRunner, load_runner

logger = logging.getLogger(__name__)

# Prompt tokens in a step with decoding requests: a tenth of a second on a CPU, less on a GPU.
_MIXED_PREFILL = {"cpu": 128, "cuda": 1024}


@dataclass(frozen=True)
class LoadedEngine:
    """An engine that is not started yet, its limits, its model's config, and facts for users."""

    engine: Engine
    limits: EngineLimits
    adapters: LiveAdapters
    config: Any
    facts: Mapping[str, Any]


def load_engine(
    settings: Settings,
    folder: Path,
    on_step: Callable[[], None] = lambda: None,
    task: str = "generate",
) -> LoadedEngine:
    """Reads the weights and the adapters, warms up, and sizes the cache.

    Args:
        on_step: see ``Engine``. task: what the checkpoint is served for.

    Raises:
        ConfigError, UnsupportedModel, WeightError: the checkpoint or a setting cannot be used.
    """
    loaded = load_runner(settings, folder, task)
    runner, limits = loaded.runner, _limits(settings, loaded)
    core = EngineCore(
        runner,
        limits,
        prefix_caching=settings.prefix_caching,
        draft=NgramDraft(settings.speculate) if settings.speculate else None,
    )
    engine = Engine(
        core,
        # Serving limits requests itself; those that it has ended may be here for one more step.
        max_concurrent_requests=2 * settings.max_concurrent_requests,
        session_timeout_s=settings.session_timeout_s,
        on_step=on_step,
    )
    logger.info(
        "%s: %s on %s, KV cache of %d blocks of %d tokens, %s",
        folder.name, runner.dtype, runner.device, runner.num_blocks, runner.block_size, limits,
    )  # fmt: skip
    facts = {
        **loaded.facts,
        "max_input_tokens": limits.max_input_tokens,
        "max_total_tokens": limits.max_total_tokens,
        "vocab_size": limits.vocab_size,
        "decoder_start_token_id": limits.decoder_start_token_id,
        "banned_tokens": limits.banned_tokens,
        "forced_eos_token_id": limits.forced_eos_token_id,
        "max_length": limits.max_length,
        "max_beams": limits.max_beams,
        "search": dict(limits.search),
    }
    return LoadedEngine(engine, limits, loaded.adapters, runner.model.config, facts)


def _limits(settings: Settings, loaded: LoadedRunner) -> EngineLimits:
    config = loaded.runner.model.config
    if settings.max_total_tokens and settings.max_total_tokens > config.max_positions:
        raise ConfigError(
            f"max_total_tokens is {settings.max_total_tokens}; "
            f"the model has {config.max_positions} positions"
        )
    total = settings.max_total_tokens or min(loaded.max_cached_tokens, config.max_positions)
    # An encoder-decoder may have positions of its own for inputs, and for answers.
    most = getattr(config, "max_input_positions", total)
    longest = settings.max_input_tokens or min(total - 1, most)
    if longest >= total:
        raise ConfigError(f"max_input_tokens is {longest}; max_total_tokens is {total}")
    if longest > most:
        raise ConfigError(f"max_input_tokens is {longest}; the encoder has {most} positions")
    has_states = loaded.runner.num_state_slots > 0
    max_beams = 1 if has_states else min(settings.max_beams, settings.max_batch_size)
    return EngineLimits(
        max_input_tokens=longest,
        max_total_tokens=total,
        # The decoder's start takes a position.
        max_answer_tokens=getattr(config, "max_answer_positions", total) - 1,
        vocab_size=config.vocab_size,
        input_vocab_size=getattr(config, "input_vocab_size", None),
        decoder_start_token_id=getattr(config, "decoder_start_token_id", None),
        forced_bos_token_id=loaded.forced_bos_token_id,
        **loaded.rules._asdict(),
        max_beams=max_beams,
        search=_search(loaded, max_beams),
        has_states=has_states,
        max_batch_size=settings.max_batch_size,
        max_batch_prefill_tokens=settings.max_batch_prefill_tokens,
        max_mixed_prefill_tokens=_MIXED_PREFILL.get(loaded.runner.device.type, 1024),
        waiting_served_ratio=settings.waiting_served_ratio,
        max_waiting_tokens=settings.max_waiting_tokens,
        priority_aging_s=settings.priority_aging_s,
        fair_scheduling=settings.fair_scheduling,
    )


def _search(loaded: LoadedRunner, max_beams: int) -> Mapping[str, Any]:
    """The options of requests that the checkpoint's files give, if so many beams may run."""
    if loaded.search is None:
        return {}
    if loaded.search.num_beams > max_beams:
        logger.warning(
            "answers are greedy: the model's files ask for num_beams %d; the most allowed, by "
            "max_beams, max_batch_size and the model's layers, is %d",
            loaded.search.num_beams, max_beams,
        )  # fmt: skip
        return {}
    return {name: value for name, value in loaded.search._asdict().items() if value is not None}

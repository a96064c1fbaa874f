"""Loads a checkpoint into a runner: weights, adapters, cache and sampler."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from atoll import progress
from atoll.config import Settings
from atoll.models.answer_rules import AnswerRules
from atoll.models.detect import decide
from atoll.models.detected import Detected
from atoll.models.load_options import device_of
from atoll.models.search_keys import SearchKeys
from atoll.runner.decode_graphs import refusal
from atoll.runner.live_adapters import LiveAdapters
from atoll.runner.load_model import load_model
from atoll.runner.memory import alone_on, cache_size, longest_request
from atoll.runner.model_runner import ModelRunner
from atoll.runner.ranks.layout import RankLayout, settings_of_rank
from atoll.runner.ranks.leading_runner import LeadingRunner
from atoll.runner.ranks.team import Team
from atoll.runner.states import StateSize
from atoll.sampling.sampler import Sampler
from atoll.sampling.watermark import Watermark

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedRunner:
    """A runner, and what is known of its checkpoint.

    max_cached_tokens: most tokens of a request, whatever its split into prompt and answer.
    rules: for an answer's tokens, by the files. forced_bos_token_id: what an encoder-decoder's
    answers begin with. search: for answers, by the files. adapters: that come and go. facts: shown
    to users.
    """

    runner: ModelRunner
    max_cached_tokens: int
    rules: AnswerRules
    forced_bos_token_id: int | None
    search: SearchKeys | None
    adapters: LiveAdapters
    facts: Mapping[str, Any]


def load_runner(settings: Settings, folder: Path, task: str = "generate") -> LoadedRunner:
    """Reads the weights and the adapters, warms up, and sizes the cache; on all ranks if
    ``num_shard`` is set.

    Args:
        task: what the checkpoint is served for.

    Raises:
        ConfigError, UnsupportedModel, WeightError: the checkpoint or a setting cannot be used.
        RankLost: a rank failed meanwhile.
    """
    detected = decide(folder, settings, task)
    for note in detected.notes:
        logger.warning("%s: %s", folder, note)
    settings = replace(settings, device=str(device_of(settings.device)))
    layout = RankLayout.read(settings, device_of(settings.device))
    if layout.size == 1:
        return _load(settings, folder, detected, None)
    team = Team.start(settings, folder, layout)
    try:
        own = settings_of_rank(settings, layout, 0)
        return _load(own, folder, detected, team)
    except BaseException as error:
        raise team.abandon(error) from error


def _load(settings: Settings, folder: Path, detected: Detected, team: Team | None) -> LoadedRunner:
    num_ranks = 1 if team is None else team.layout.size
    with progress.phase("weights"):
        loaded = load_model(settings, folder, 0, num_ranks)
    decoder, options, config = loaded.model, loaded.options, loaded.model.config
    if settings.state_dtype != Settings.state_dtype and not decoder.state_specs():
        logger.warning(
            "%s: state_dtype is %r, which has no effect: the model has no recurrent layers, whose "
            "states it is for", folder, settings.state_dtype,
        )  # fmt: skip
    watermark = Watermark(config.vocab_size, settings.watermark_gamma, settings.watermark_delta)
    with (
        progress.phase("warm-up"),
        alone_on([options.device] if team is None else team.layout.devices),
    ):
        if team is None:
            size = cache_size(settings, decoder, options, config.max_positions)
        else:
            team.answers()  # every rank has loaded its weights
            size = cache_size(
                settings, decoder, options, config.max_positions,
                make_runner=partial(LeadingRunner, team), least_of_all=team.least_spare_bytes,
                num_sharing=team.layout.num_local,
            )  # fmt: skip
        make = ModelRunner if team is None else partial(LeadingRunner, team)
        runner = make(
            decoder, Sampler(watermark), size.num_blocks, settings.block_size, options.device,
            options.dtype, size.states,
        )  # fmt: skip
        runner.adapters = loaded.adapters
        _capture(runner, settings)
    capacity = longest_request(decoder, size.num_blocks, settings.block_size)
    raw = loaded.checkpoint.raw
    facts = {
        "model_type": str(raw.get("model_type")),
        "architectures": raw.get("architectures") or [],
        "dtype": str(options.dtype).removeprefix("torch."),
        "device": str(options.device),
        "num_shard": num_ranks,
        "max_batch_total_tokens": capacity,
        "num_blocks": size.num_blocks,
        "block_size": settings.block_size,
        **_state_facts(size.states),
    }
    rules = detected.rules.within(config.vocab_size)
    adapters = LiveAdapters(runner, loaded.checkpoint, options.dtype, settings.max_loras, num_ranks)
    return LoadedRunner(
        runner, capacity, rules, detected.forced_bos_token_id, detected.search, adapters, facts
    )


def _state_facts(states: StateSize) -> dict[str, Any]:
    """Of a model with recurrent layers: sequences that can run or wait as conversations, prefixes
    that can be continued (0: prefix caching is off), and how states are stored."""
    if not states.num_slots:
        return {}
    return {
        "state_slots": states.num_slots - states.num_snapshots,
        "state_snapshots": states.num_snapshots,
        "state_dtype": str(states.dtype).removeprefix("torch."),
    }


def _capture(runner: ModelRunner, settings: Settings) -> None:
    """Captures decoding steps as graphs, if this is enabled and possible."""
    reason = refusal(runner.model, runner.device, runner.dtype)
    if settings.cuda_graphs and reason is None:
        runner.buffer_decoding(settings.max_batch_size)
    elif settings.cuda_graphs:
        logger.info("decoding steps are not replayed: %s", reason)

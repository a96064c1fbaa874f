"""Determines the size of the KV cache and of recurrent states, by measuring memory while a prompt
of full size runs."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from atoll.cgroup import available_memory
from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.runner.kv_cache import bytes_per_token
from atoll.runner.model import Decoder
from atoll.runner.model_runner import ModelRunner
from atoll.runner.states import NO_STATES, StateSize, bytes_per_sequence, state_dtype
from atoll.runner.warm_up import DRAWS, num_blocks, warm_up_steps
from atoll.sampling.sampler import Sampler
from atoll.sampling.watermark import Watermark
from atoll.weights.load import LoadOptions

logger = logging.getLogger(__name__)

# On a machine that other programs share, a cache is not made larger than this without being told,
# unless two requests of full length need more.
_HOST_LIMIT_BYTES = 4 << 30
_HOST_WARM_UP_TOKENS = 32
# Of a model that attends nowhere, whose blocks are only counted: so many are not worth a list.
_MOST_EMPTY_BLOCKS = 1 << 18


class CacheSize(NamedTuple):
    """Of the KV cache, and of the states of recurrent layers."""

    num_blocks: int
    states: StateSize = NO_STATES


MakeRunner = Callable[
    [Decoder, Sampler, int, int, torch.device, torch.dtype, StateSize], ModelRunner
]


def cache_size(
    settings: Settings,
    model: Decoder,
    options: LoadOptions,
    max_positions: int,
    *,
    make_runner: MakeRunner = ModelRunner,
    least_of_all: Callable[[int], int] = lambda num_bytes: num_bytes,
    num_sharing: int = 1,
) -> CacheSize:
    """``max_batch_total_tokens`` in blocks, or, if it is not set, what fits into free memory; and
    a state for each of ``max_batch_size`` sequences, if so many fit.

    Runs the model to measure its activations and to initialize lazy state.

    Args:
        make_runner: creates the runner of the trial run. least_of_all: maps the bytes that this
            rank can spare to the minimum over all ranks. num_sharing: see ``SpareMemory``.

    Raises:
        ConfigError: not even one request of ``max_total_tokens`` fits.
    """
    num_extra = _num_extra_blocks(model)
    per_token = bytes_per_token(model.cache_specs(), options.dtype)
    per_block = per_token * settings.block_size
    longest = min(settings.max_total_tokens or max_positions, max_positions)
    spare = _warm_up(settings, model, options, longest, make_runner, num_sharing)
    limit = settings.max_batch_total_tokens
    blocks = 0 if limit is None else -(-limit // settings.block_size) + num_extra
    states, room = NO_STATES, 0
    if limit is None or model.state_specs():
        room = int(least_of_all(spare.read()) * settings.memory_fraction) - blocks * per_block
    if model.state_specs():
        per_state = bytes_per_sequence(model.state_specs(), options.dtype, state_dtype(settings))
        states = state_size(settings, per_state, room, is_host=options.device.type == "cpu")
        room -= states.num_slots * per_state
    if limit is None:
        useful = settings.max_batch_size * -(-longest // settings.block_size)
        if options.device.type == "cpu" and per_block:
            most = max(_HOST_LIMIT_BYTES, 2 * longest * per_token)
            useful = min(useful, most // per_block)
        # Blocks without memory, of a model that attends nowhere, are counted all the same.
        blocks = min(room // per_block, useful) if per_block else min(useful, _MOST_EMPTY_BLOCKS)
    least = settings.max_total_tokens or 1
    held = longest_request(model, blocks, settings.block_size)
    if held < least:
        raise ConfigError(
            f"the KV cache has room for {max(held, 0)} tokens; "
            f"max_total_tokens is {least}. Lower it or max_batch_prefill_tokens, or raise "
            "memory_fraction"
        )
    return CacheSize(blocks, states)


def state_size(settings: Settings, num_bytes: int, room: int, *, is_host: bool) -> StateSize:
    """Slots for the states of ``max_batch_size`` sequences, twice where steps verify guesses, and
    for ``state_snapshots``; fewer of all where they would take more than half of the room.

    num_bytes: of one state. room: bytes that the states and the KV cache share.

    Raises:
        ConfigError: not even one state fits.
    """
    num_running = settings.max_batch_size * (2 if settings.speculate else 1)
    num_snapshots = settings.state_snapshots if settings.prefix_caching else 0
    wanted = num_running + num_snapshots
    most = min(room // 2, _HOST_LIMIT_BYTES) if is_host else room // 2
    fitting = min(wanted, max(most // num_bytes, 1))
    if num_bytes > room:
        raise ConfigError(
            f"the state of one sequence takes {num_bytes / 1e6:.1f} MB; there is room for "
            f"{max(room, 0) / 1e6:.1f} MB. Lower max_batch_prefill_tokens or "
            "max_batch_total_tokens, or raise memory_fraction"
        )
    dtype = state_dtype(settings)
    if fitting == wanted:
        return StateSize(wanted, num_snapshots, dtype)
    found = StateSize(fitting, fitting * num_snapshots // wanted, dtype)
    logger.info(
        "there is room for the states of %d sequences and %d snapshots, of %.1f MB each; "
        "max_batch_size and state_snapshots ask for %d",
        found.num_slots - found.num_snapshots, found.num_snapshots, num_bytes / 1e6, wanted,
    )  # fmt: skip
    return found


def longest_request(model: Decoder, num_blocks: int, block_size: int) -> int:
    """Tokens that fit into ``num_blocks``, whatever their split into prompt and answer."""
    return (num_blocks - _num_extra_blocks(model)) * block_size


def _num_extra_blocks(model: Decoder) -> int:
    """One for an encoder-decoder, whose input and answer are rounded up to blocks separately."""
    return int(getattr(model.config, "decoder_start_token_id", None) is not None)


class SpareMemory:
    """Memory that a rank's cache may use. Create it after the trial run's cache was allocated and
    before the trial run.

    num_sharing: ranks of this machine, which share the host's memory if they run on the CPU.
    """

    def __init__(self, device: torch.device, num_sharing: int = 1) -> None:
        self._device, self._num_sharing = device, num_sharing
        self._before = 0
        if device.type == "cuda":
            self._before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> int:
        """Free bytes after the trial's cache was released, minus the bytes of its activations."""
        if self._device.type != "cuda":
            return available_memory() // self._num_sharing
        num_activation_bytes = torch.cuda.max_memory_allocated(self._device) - self._before
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)[0] - num_activation_bytes


@contextmanager
def alone_on(devices: Sequence[torch.device]) -> Iterator[None]:
    """Keeps other processes of this machine out: another model or instance must not take free GPU
    memory after it was measured.

    GPUs are locked in the order of their numbers, so that two models cannot deadlock.
    """
    with ExitStack() as stack:
        for device in sorted(devices, key=lambda device: device.index or 0):
            stack.enter_context(_alone_on_one(device))
        yield


@contextmanager
def _alone_on_one(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    name = getattr(torch.cuda.get_device_properties(device), "uuid", device.index)
    path = Path(tempfile.gettempdir()) / f"atoll-gpu-{name}.lock"
    try:
        file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        logger.warning("%s; models that load at once may take the same memory", error)
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _features(model: Decoder) -> tuple[int, int] | None:
    """Of an encoder of sound, see ``warm_up_steps``."""
    config = model.config
    if not hasattr(config, "num_features"):
        return None
    return config.frames_per_output, config.num_features


def _warm_up(
    settings: Settings, model: Decoder, options: LoadOptions, longest: int,
    make_runner: MakeRunner, num_sharing: int,
) -> SpareMemory:  # fmt: skip
    """Runs the largest possible prefill and a decoding step; returns the memory left for a cache.

    On a GPU, also short prompts and sampling, so that all kernels are compiled. On a CPU, only a
    short prompt: memory is not measured there, and a long prompt takes seconds.
    """
    device = options.device
    is_cuda = device.type == "cuda"
    most = settings.max_batch_prefill_tokens if is_cuda else _HOST_WARM_UP_TOKENS
    most = min(most, getattr(model.config, "max_input_positions", most))
    count = max(min(most, longest - 1), 1)
    start = getattr(model.config, "decoder_start_token_id", None)
    size, has_states = settings.block_size, bool(model.state_specs())
    runner = make_runner(
        model, Sampler(Watermark(model.config.vocab_size, 0.5, 2.0)), num_blocks(count, size), size,
        device, options.dtype,
        StateSize(1, dtype=state_dtype(settings)) if has_states else NO_STATES,
    )  # fmt: skip
    spare = SpareMemory(device, num_sharing)
    for length, draw in [(count, None), *((min(count, 2), draw) for draw in DRAWS if is_cuda)]:
        steps = warm_up_steps(
            length, size, len(runner.windows), start=start, draw=draw,
            has_states=has_states, features=_features(model),
        )  # fmt: skip
        try:
            for step in steps:
                runner.run(step)
        except Exception as error:
            raise ConfigError(
                f"a prompt of {length} tokens cannot be run (the generation step failed: "
                f"{type(error).__name__}: {error}); where memory is short, lower "
                f"max_batch_prefill_tokens, which is {settings.max_batch_prefill_tokens}"
            ) from error
    return spare

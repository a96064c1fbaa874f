"""Determines the size of the KV cache, by measuring memory while a prompt of full size runs."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from atoll.cgroup import available_memory
from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.runner.kv_cache import bytes_per_token
from atoll.runner.model import Decoder
from atoll.runner.model_runner import ModelRunner
from atoll.runner.warm_up import DRAWS, num_blocks, warm_up_steps
from atoll.sampling.sampler import Sampler
from atoll.sampling.watermark import Watermark
from atoll.weights.load import LoadOptions

logger = logging.getLogger(__name__)

# On a machine that other programs share, a cache is not made larger than this without being told,
# unless two requests of full length need more.
_HOST_LIMIT_BYTES = 4 << 30
_HOST_WARM_UP_TOKENS = 32


MakeRunner = Callable[[Decoder, Sampler, int, int, torch.device, torch.dtype], ModelRunner]


def num_cache_blocks(
    settings: Settings,
    model: Decoder,
    options: LoadOptions,
    max_positions: int,
    *,
    make_runner: MakeRunner = ModelRunner,
    least_of_all: Callable[[int], int] = lambda num_bytes: num_bytes,
    num_sharing: int = 1,
) -> int:
    """``max_batch_total_tokens`` in blocks, or, if it is not set, what fits into free memory.

    Runs the model to measure its activations and to initialize lazy state.

    Args:
        make_runner: creates the runner of the trial run. least_of_all: maps the bytes that this
            rank can spare to the minimum over all ranks. num_sharing: see ``SpareMemory``.

    Raises:
        ConfigError: not even one request of ``max_total_tokens`` fits.
    """
    device = options.device
    num_extra = _num_extra_blocks(model)
    per_token = bytes_per_token(model.cache_specs(), options.dtype)
    per_block = per_token * settings.block_size
    longest = min(settings.max_total_tokens or max_positions, max_positions)
    spare = _warm_up(settings, model, options, longest, make_runner, num_sharing)
    if settings.max_batch_total_tokens is not None:
        blocks = -(-settings.max_batch_total_tokens // settings.block_size) + num_extra
    else:
        free = least_of_all(spare.read()) * settings.memory_fraction
        useful = settings.max_batch_size * -(-longest // settings.block_size) * per_block
        if device.type == "cpu":
            useful = min(useful, max(_HOST_LIMIT_BYTES, 2 * longest * per_token))
        blocks = int(min(free, useful)) // per_block
    least = settings.max_total_tokens or 1
    room = longest_request(model, blocks, settings.block_size)
    if room < least:
        raise ConfigError(
            f"the KV cache has room for {max(room, 0)} tokens; "
            f"max_total_tokens is {least}. Lower it or max_batch_prefill_tokens, or raise "
            "memory_fraction"
        )
    return blocks


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
    count = max(min(most, longest - 1), 1)
    start = getattr(model.config, "decoder_start_token_id", None)
    size = settings.block_size
    runner = make_runner(
        model, Sampler(Watermark(model.config.vocab_size, 0.5, 2.0)), num_blocks(count, size), size,
        device, options.dtype,
    )  # fmt: skip
    spare = SpareMemory(device, num_sharing)
    for length, draw in [(count, None), *((min(count, 2), draw) for draw in DRAWS if is_cuda)]:
        steps = warm_up_steps(length, size, len(runner.windows), start=start, draw=draw)
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
